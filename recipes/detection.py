"""Object detection: a simple feature pyramid and an anchor-free head on any ViT.

python -m recipes.detection --checkpoint CHECKPOINT --data digits --workdir DIR

`--data` is `digits` (`recipes.digits_on_photographs`) or `tfds:NAME[:SPLIT]`, a set with
`objects/bbox` such as `voc`, which needs `--test-data` as well. The recipe fine-tunes the
backbone, or with `--freeze` trains the rest alone, prints COCO's average precision, and
writes the model, the results and a picture of the detected boxes.

Reference: ViTDet (arXiv:2203.16527), FCOS (arXiv:1904.01355).
"""

import argparse
import json
import pathlib

import numpy as np

import keras_vit
from keras_vit.models.detection import suppress
from keras_vit.visualize import pictures
from recipes import detection_data, digits_on_photographs
from recipes.average_precision import average_precision
from recipes.dense_prediction import (
    check_class_names,
    load_backbone,
    optimizer,
    trained,
)


def main():
    arguments = parse_arguments()
    model, test = trained("detection", arguments, open_data, make_model, fit)
    batches = detection_data.batches(test, model, arguments.batch_size)
    results = evaluate(model, batches, test.class_names)
    print_results(results)
    (arguments.workdir / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    images, boxes = next(iter(batches))
    draw(model, images, boxes, test.class_names, arguments.workdir / "detections.png")
    print(f"Model, results and picture: {arguments.workdir}/")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--checkpoint", required=True, help="anything that load_checkpoint reads")
    add("--data", default="digits", help="digits or tfds:NAME[:SPLIT]")
    add("--test-data", help="likewise; digits have their own")
    add("--blocks", type=int, nargs="+", default=[-1], help="blocks the pyramid sees")
    add("--strides", type=int, nargs="+", help="default: half a patch, one and two")
    add("--filters", type=int, default=128, help="width of the pyramid and the head")
    add("--freeze", action="store_true", help="keep the weights of the backbone")
    add("--size", type=int, default=112, help="side of the images in pixels")
    add("--epochs", type=int, default=10)
    add("--batch-size", type=int, default=16)
    add("--learning-rate", type=float, default=3e-4)
    add("--seed", type=int, default=0)
    add("--workdir", type=pathlib.Path, required=True, help="a new directory")
    add("--images", type=int, default=1200, help="digits: number of training images")
    add("--photos", type=pathlib.Path, help="digits: folder of photographs")
    add("--data-dir", help="tfds: directory of TensorFlow Datasets")
    return parser.parse_args()


def open_data(arguments):
    """Return the training and the test set."""
    if arguments.data == "digits":
        return tuple(
            digits_on_photographs.boxed_digits(
                arguments.photos, count, arguments.size, part
            )
            for part, count in (
                ("train", arguments.images),
                ("test", max(1, arguments.images // 8)),
            )
        )
    names = arguments.data, arguments.test_data or ""
    if not all(name.startswith("tfds:") for name in names):
        raise ValueError(
            f"--data {arguments.data} --test-data {arguments.test_data}: each must be "
            "'tfds:NAME[:SPLIT]', or else --data 'digits'."
        )
    train, test = (
        detection_data.tfds(name.removeprefix("tfds:"), arguments.data_dir)
        for name in names
    )
    check_class_names(arguments, train, test)
    return train, test


def make_model(arguments, classes):
    """Return the detection model with a new pyramid and head."""
    backbone = load_backbone(arguments)
    return keras_vit.DetectionModel(
        backbone,
        classes,
        strides=arguments.strides,
        filters=arguments.filters,
        blocks=arguments.blocks,
    )


def fit(model, train, arguments):
    """Train a detection model with AdamW, a warm-up and a cosine schedule."""
    data = detection_data.batches(train, model, arguments.batch_size, arguments.seed)
    adamw = optimizer(
        train,
        arguments.batch_size,
        arguments.epochs,
        arguments.learning_rate,
        clipnorm=10.0,
    )
    model.compile(adamw, keras_vit.DetectionLoss.of(model))
    model.fit(data, shuffle=False, epochs=arguments.epochs, verbose=2)


def evaluate(model, batches, class_names):
    """Return AP and AP50, means over the classes of the test set, and the AP of each."""
    found, true = [], []
    for images, boxes in batches.as_numpy_iterator():
        found += model.detect(images)
        true += [rows[rows[:, 4] >= 0] for rows in boxes]
    values = average_precision(found, true, len(class_names))
    present = ~np.isnan(values[:, 0])
    return {
        "ap": float(values[present].mean()),
        "ap50": float(values[present, 0].mean()),
        "ap_of_class": {
            name: float(values[index].mean())
            for index, name in enumerate(class_names)
            if present[index]
        },
    }


def print_results(results):
    for name, ap in results["ap_of_class"].items():
        print(f"  {name:<20} AP {100 * ap:5.1f} %")
    print(
        f"mAP@[.5:.95] {100 * results['ap']:.1f} %, AP50 {100 * results['ap50']:.1f} %."
    )


def draw(model, images, boxes, class_names, path, count=6, threshold=0.3, scale=2):
    """Write a picture: the true boxes in the first row, the detected ones in the second.

    Images are enlarged by `scale`, so that the names of the classes can be read. Where
    boxes of several classes overlap, the most probable one is shown.
    """
    images, boxes = np.asarray(images)[:count], np.asarray(boxes)[:count]
    scaling = model.preprocessor
    pixels = pictures.to_bytes(images * scaling.std + scaling.mean)
    pixels = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    true = [
        [(*box, class_names[int(label)]) for *box, label in rows if label >= 0]
        for rows in boxes
    ]
    found = []
    for entry in model.detect(images, threshold):
        shown = suppress(entry["boxes"], np.zeros_like(entry["labels"]), 0.5)
        entries = [
            (*box, f"{class_names[label]} {score:.2f}")
            for box, label, score in zip(*entry.values(), strict=True)
        ]
        found.append([entries[index] for index in shown])
    rows = [
        [
            outlined(image, entries, scale)
            for image, entries in zip(pixels, row, strict=True)
        ]
        for row in (true, found)
    ]
    path.write_bytes(pictures.png(pictures.sheet(np.array(rows), gap=2)))


def outlined(pixels, entries, scale):
    """Return an image with rectangles and their names.

    Args:
        pixels: `(h, w, 3)`, uint8.
        entries: list of `(y_min, x_min, y_max, x_max, text)`.
        scale: int, factor from the coordinates to pixels.
    """
    from PIL import Image, ImageDraw

    image = Image.fromarray(pixels)
    drawing = ImageDraw.Draw(image)
    for *box, text in entries:
        top, left, bottom, right = (scale * float(side) for side in box)
        drawing.rectangle((left, top, right, bottom), outline="yellow", width=scale)
        drawing.text(
            (left + 2 * scale, top + scale),
            text,
            fill="yellow",
            stroke_width=1,
            stroke_fill="black",
        )
    return np.asarray(image)


if __name__ == "__main__":
    main()
