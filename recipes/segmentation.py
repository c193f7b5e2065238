"""Semantic segmentation: a linear head or a mask transformer on any ViT.

python -m recipes.segmentation --checkpoint CHECKPOINT --data digits --workdir DIR

`--data` is `digits` (`recipes.digits_on_photographs`), `folder:PATH` (a folder with
`images/`, `masks/` and `classes.txt`) or `tfds:NAME[:SPLIT]`; the last two need
`--test-data` as well. The recipe trains the head, and with `--no-freeze` the backbone
too, prints the IoU of each class, and writes the model, its backbone as a checkpoint, a
picture of predictions and a SavedModel from pixels to classes.

Reference: Segmenter (arXiv:2105.05633).
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np

import keras_vit
from keras_vit.visualize import pictures
from recipes import digits_on_photographs, segmentation_data
from recipes.dense_prediction import (
    check_class_names,
    load_backbone,
    optimizer,
    trained,
)

# Learning rate of a head that is trained alone before the backbone is fine-tuned.
HEAD_RATE = 1e-3


def main():
    arguments = parse_arguments()
    model, test = trained("segmentation", arguments, open_data, make_model, fit)
    model.backbone.save(arguments.workdir / "backbone.keras")
    batches = segmentation_data.batches(test, model, arguments.batch_size)
    results = evaluate(model, batches, test.class_names)
    print_results(results)
    (arguments.workdir / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    images, masks = next(iter(batches))
    draw(model, images, masks, arguments.workdir / "predictions.png")
    export(arguments.workdir)
    print(f"Model, results, pictures and SavedModel: {arguments.workdir}/")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="anything that load_checkpoint reads")
    add("--data", default="digits", help="digits, folder:PATH or tfds:NAME[:SPLIT]")
    add("--test-data", help="likewise; digits have their own")
    add("--head", choices=("linear", "mask_transformer"), default="linear")
    add("--blocks", type=int, nargs="+", default=[-1], help="blocks that the head sees")
    add("--freeze", action=argparse.BooleanOptionalAction, default=True)
    add("--cache", action="store_true", help="compute frozen tokens once, without crops")
    add("--size", type=int, default=112, help="side of the images in pixels")
    add("--epochs", type=int, default=10)
    add("--batch-size", type=int, default=16)
    add("--head-epochs", type=int, default=10, help="for the head alone, --no-freeze")
    add("--learning-rate", type=float, help="default: 1e-3, or 1e-4 with --no-freeze")
    add("--seed", type=int, default=0)
    add("--workdir", type=pathlib.Path, required=True, help="a new directory")
    add("--images", type=int, default=400, help="digits: number of training images")
    add("--photos", type=pathlib.Path, help="digits: folder of photographs")
    add("--classes", type=int, help="tfds: number of classes, if the set has no names")
    add("--data-dir", help="tfds: directory of TensorFlow Datasets")
    add("--decoder-width", type=int, help="mask_transformer; default: the backbone's")
    arguments = parser.parse_args()
    if arguments.cache and not arguments.freeze:
        parser.error("--cache needs a frozen backbone: omit --no-freeze, or --cache.")
    return arguments


def open_data(arguments):
    """Return the training and the test set."""
    if arguments.data == "digits":
        return tuple(
            digits_on_photographs.digits(arguments.photos, count, arguments.size, part)
            for part, count in (
                ("train", arguments.images),
                ("test", max(1, arguments.images // 4)),
            )
        )

    def opened(name):
        kind, _, rest = (name or "").partition(":")
        if kind == "folder":
            return segmentation_data.folder(rest)
        if kind == "tfds":
            return segmentation_data.tfds(rest, arguments.data_dir, arguments.classes)
        raise ValueError(
            f"--data {arguments.data} --test-data {arguments.test_data}: each must be "
            "'folder:PATH' or 'tfds:NAME[:SPLIT]', or else --data 'digits'."
        )

    train, test = opened(arguments.data), opened(arguments.test_data)
    check_class_names(arguments, train, test)
    return train, test


def make_model(arguments, classes):
    """Return the segmentation model with a new head."""
    backbone = load_backbone(arguments)
    if arguments.head == "linear":
        head = keras_vit.layers.Classifier(classes, name="head")
    else:
        width = arguments.decoder_width or backbone.get_config()["hidden_dim"]
        head = keras_vit.layers.MaskTransformer(classes, hidden_dim=width, name="head")
    return keras_vit.SegmentationModel(backbone, head, blocks=arguments.blocks)


def fit(model, train, arguments):
    """Train the head of a frozen backbone, or first the head and then both.

    The gradients of a new head would spoil a trained backbone (arXiv:2202.10054), so that
    `--no-freeze` trains the head alone for `--head-epochs` before it fine-tunes.
    """
    rate = arguments.learning_rate or (1e-3 if arguments.freeze else 1e-4)
    if arguments.cache:
        fit_head(model, train, arguments.batch_size, arguments.epochs, rate)
        return
    if not arguments.freeze and arguments.head_epochs:
        fit_head(model, train, arguments.batch_size, arguments.head_epochs, HEAD_RATE)
    data = segmentation_data.batches(train, model, arguments.batch_size, arguments.seed)
    compile_for(model, train, arguments.batch_size, arguments.epochs, rate)
    model.fit(data, epochs=arguments.epochs, shuffle=False, verbose=2)


def fit_head(model, train, batch_size, epochs, rate):
    """Train the head on the tokens of whole images, which are computed once."""
    data = segmentation_data.batches(train, model, batch_size)
    masks = np.concatenate([masks for _, masks in data.as_numpy_iterator()])
    tokens = keras.Model(model.input, model.head.input).predict(data, verbose=0)
    head = keras.Model(model.head.input, model.output)
    compile_for(head, train, batch_size, epochs, rate)
    head.fit(tokens, masks, batch_size, epochs, verbose=2)


def compile_for(model, train, batch_size, epochs, rate):
    """Compile a model for AdamW with a warm-up and a cosine schedule."""
    model.compile(optimizer(train, batch_size, epochs, rate), loss())


def loss():
    """Return the mean cross-entropy of all pixels that are not ignored."""
    return keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=segmentation_data.IGNORED
    )


def evaluate(model, batches, class_names):
    """Return the mean IoU, that of predicting the majority class, and each class's IoU.

    The mean is over the classes that masks or predictions contain.
    """
    metric = keras.metrics.MeanIoU(
        len(class_names), ignore_class=segmentation_data.IGNORED, sparse_y_pred=False
    )
    model.compile(loss=loss(), metrics=[metric])
    model.evaluate(batches, verbose=0)
    counts = keras.ops.convert_to_numpy(metric.total_cm).astype("float64")
    correct, true = counts.diagonal(), counts.sum(axis=1)
    union = true + counts.sum(axis=0) - correct
    found = union > 0
    majority = true.max() / true.sum() / np.count_nonzero(true)
    return {
        "miou": float(np.mean(correct[found] / union[found])),
        "majority_miou": float(majority),
        "majority_class": class_names[true.argmax()],
        "iou": {
            name: float(correct[index] / union[index])
            for index, name in enumerate(class_names)
            if found[index]
        },
    }


def print_results(results):
    for name, iou in results["iou"].items():
        print(f"  {name:<20} IoU {100 * iou:5.1f} %")
    print(
        f"mIoU {100 * results['miou']:.1f} %; always predicting "
        f"{results['majority_class']!r}: {100 * results['majority_miou']:.1f} %."
    )


def draw(model, images, masks, path, count=6):
    """Write a picture: images in the first row, masks in the second, then predictions."""
    images, masks = np.asarray(images)[:count], np.asarray(masks)[:count]
    predicted = model.predict(images, verbose=0).argmax(axis=-1)
    scaling = model.preprocessor
    pixels = pictures.to_bytes(images * scaling.std + scaling.mean)
    rows = np.stack([pixels, class_colors(masks), class_colors(predicted)])
    path.write_bytes(pictures.png(pictures.sheet(rows, gap=2)))


def class_colors(masks):
    """Return masks in colors: black for class 0, white for ignored pixels."""
    from matplotlib import colormaps

    colors = pictures.to_bytes(255 * np.asarray(colormaps["tab20"].colors))
    table = np.resize(colors, (256, 3))
    table[0], table[segmentation_data.IGNORED] = 0, 255
    return table[masks]


def export(workdir):
    """Write the SavedModel of `model.keras`, in a process with TensorFlow as the backend.

    What Keras writes under JAX has operations that TensorFlow does not always know, and
    under torch it needs torch_xla.
    """
    program = "import sys; from recipes import segmentation; "
    program += "segmentation.write_saved_model(*sys.argv[1:])"
    paths = [str(workdir / name) for name in ("model.keras", "saved_model")]
    subprocess.run(
        [sys.executable, "-c", program, *paths],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        check=True,
    )


def write_saved_model(file, path):
    """Write a SavedModel from pixels 0 to 255 to classes `(b, h, w)`, int32.

    Loaded by `tf.saved_model.load`, its function `serve` takes float32 images of the
    model's size.

    Args:
        file: path of a saved `SegmentationModel`.
        path: directory to write.
    """
    model = keras.saving.load_model(file)
    pixels = keras.Input(model.input_shape[1:], name="images")
    classes = keras.ops.argmax(model(model.preprocessor(pixels)), axis=-1)
    keras.Model(pixels, classes).export(path, format="tf_saved_model", verbose=False)


if __name__ == "__main__":
    main()
