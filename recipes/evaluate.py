r"""Evaluates a checkpoint on labelled images, every image once.

python -m recipes.evaluate CHECKPOINT [--workdir DIR] [--set key=value ...]

CHECKPOINT is the directory of a run (its best model), or what `keras_vit.load_checkpoint`
reads: a file, a name that `keras_vit.checkpoints()` lists; or an export: a .onnx or
.tflite file, the directory of a SavedModel's versions, for images that have one size. The
images are those of `data.test`; of a run, its own test set, or the validation set if it
has none. Examples:

  python -m recipes.evaluate runs/digits
  python -m recipes.evaluate runs/digits --set data.test=folder:photographs
  python -m recipes.evaluate vit_b16.augreg_in21k_ft_in1k_224 --set \
      data.test=tfds:imagenet2012:validation --set model.arguments.input_shape=384,384,3
  python -m recipes.evaluate digits.onnx --set data.test=digits:test

With --workdir: evaluation.json, and confusion.png for up to 100 classes.
"""

import json
import math
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

import keras_vit
from keras_vit.training.class_names import check_class_names
from keras_vit.training.pipeline import evaluation_batches
from keras_vit.training.sources import Source
from recipes import class_names, command_line, dark_images, exported, pictures
from recipes import config as configs
from recipes.data import open_parts
from recipes.objectives import network
from recipes.run_directory import write_text

NOTHING = configs.Config(
    about="Evaluation.",
    command="python -m recipes.evaluate ...",
    hardware="any",
    expected="what was published",
    data=configs.Data(train="", validation="", test=None),
)
MOST_CLASSES_SHOWN = 100
OTHER_CLASSES = (
    "Rename the class folders, or fine-tune the model (recipes.finetune). If only the "
    "names differ, --set model.arguments.class_names=None compares their number only."
)


def evaluate(config: configs.Config) -> dict[str, Any]:
    """Results of `model.weights` on `data.test`, or on `data.validation`.

    Args:
        config: which checkpoint, which images.

    Returns:
        Dict with `set` (the name of the set), `images`, `unreadable`, `accuracy`, `top5`,
        `loss` (mean negative log-likelihood, of a softmax), and `confusion`, `(classes,
        classes)`: rows are the labels.

    Raises:
        ValueError: no images are named; the model has other classes.
    """
    name = config.data.test or config.data.validation
    if not name:
        raise ValueError(
            "Which images? --set data.test=tfds:NAME:SPLIT, folder:PATH or digits:test."
        )
    part = "test" if config.data.test else "validation"
    source = open_parts(config.data, [part])[part]
    weights = config.model.weights
    if weights is not None and exported.is_export(weights):
        model = exported.Export(weights)
        source = source.with_channels(model.input_shape[-1])
        _check_sizes(model, weights, source, config)
    else:
        model = network(config, include_top=True, classifier_activation=None, head="keep")
    names, classes = class_names.known(model, config), model.output_shape[-1]
    if names is not None:
        check_class_names(name, source.class_names, str(weights), names, OTHER_CLASSES)
    if classes != source.num_classes:
        raise ValueError(
            f"{weights} has {classes} classes, {name} {source.num_classes}: "
            "fine-tune it (recipes.finetune), or probe its features "
            "(recipes.linear_probe)."
        )
    confusion = np.zeros((classes, classes), int)
    loss, in_five, seen = 0.0, 0, 0
    for logits, labels in outputs(model, source, config):
        own = logits[np.arange(len(labels)), labels]
        high = logits.max(axis=1)
        total = np.log(np.exp(logits - high[:, None]).sum(axis=1)) + high
        loss += float((total - own).sum())
        in_five += int(((logits > own[:, None]).sum(axis=1) < 5).sum())
        np.add.at(confusion, (labels, logits.argmax(axis=1)), 1)
        seen += len(labels)
    return {
        "set": source.name,
        "images": seen,
        "unreadable": source.num_examples - seen,
        "accuracy": int(np.trace(confusion)) / seen,
        "top5": in_five / seen,
        "loss": loss / seen,
        "confusion": confusion.tolist(),
    }


def _check_sizes(export, path, source, config):
    """Raises unless an export takes a source's images as they are.

    Resized otherwise than its checkpoint wants them, they would tell too little of it.
    """
    if set(config.model.arguments) - {"class_names"}:
        raise ValueError(
            f"model.arguments={config.model.arguments!r} are not for an export: they "
            "would build another model."
        )
    sizes = source.image_shape or (None, None, source.channels)
    pairs = zip(export.input_shape[1:], sizes, strict=True)
    if None in sizes or any(wanted not in (None, size) for wanted, size in pairs):
        wanted, found = (
            "x".join("any" if n is None else str(n) for n in shape)
            for shape in (export.input_shape[1:], sizes)
        )
        raise ValueError(
            f"{path} takes images of {wanted}, all of one size; those of {source.name} "
            f"have {found}: resize them, or evaluate the checkpoint."
        )


def outputs(
    model: keras.Model | exported.Export, source: Source, config: configs.Config
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What a model makes of all images of a source, with a progress bar.

    Args:
        model: a `keras_vit` model, or an export of one.
        source: the images.
        config: says the batch size, and what becomes of unreadable images.

    Yields:
        For each batch its outputs, float64, and its labels; padding is left out.
    """
    dark_images.warn(source)
    batches = evaluation_batches(
        source.with_channels(model.input_shape[-1]),
        model.preprocessor,
        config.batch_size,
        unreadable=config.data.unreadable,
    )
    steps = math.ceil(source.num_examples / config.batch_size)
    progress = keras.utils.Progbar(steps, verbose=int(sys.stdout.isatty()))
    for step, (images, labels, weights) in enumerate(batches.as_numpy_iterator()):
        real = weights > 0
        yield np.asarray(model.predict_on_batch(images), "float64")[real], labels[real]
        progress.update(step + 1)


def published_accuracy(checkpoint: str) -> str | None:
    """What was published of a checkpoint, with where; None where nothing was."""
    row = keras_vit.checkpoints().get(checkpoint)
    if row is None or row.imagenet_top1 is None:
        return None
    return (
        f"{row.imagenet_top1:.2f} % (ImageNet at {row.resolution} px, {row.top1_source})"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = command_line.parser(
        "recipes.evaluate", __doc__, "CHECKPOINT", "where results go; printed without"
    )
    options = parser.parse_args(arguments)
    with command_line.writing(options.workdir):
        config = command_line.config_of(options.what, NOTHING)
        config = configs.override(config, command_line.settings(options))
        if config.model.weights is None:
            raise ValueError(
                f"{options.what} is a config without model.weights: evaluate the "
                "directory of its run, or a checkpoint."
            )
        results = evaluate(config)
        print(f"{config.model.weights} on {results['set']}:")
        print(f"  images: {results['images']:,} ({results['unreadable']:,} unreadable)")
        accuracy, top5 = results["accuracy"], results["top5"]
        print(f"  accuracy: {accuracy:.2%}; in the first five: {top5:.2%}")
        print(f"  loss: {results['loss']:.4f}")
        if published := published_accuracy(options.what):
            print(f"  published: {published}")
        if options.workdir is not None:
            directory = pathlib.Path(options.workdir)
            confusion = np.array(results.pop("confusion"))
            results |= {
                "checkpoint": config.model.weights,
                "config": configs.to_dict(config),
            }
            write_text(directory / "evaluation.json", json.dumps(results, indent=1))
            if len(confusion) <= MOST_CLASSES_SHOWN:
                pictures.confusion(confusion, directory / "confusion.png")
            print(f"  results: {directory}/")


if __name__ == "__main__":
    command_line.run_as_process(main)
