"""Accuracy of a checkpoint or an export on labeled images."""

import math
import sys
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

import keras_vit
from keras_vit.data import dark_images
from keras_vit.data.class_names import check_class_names
from keras_vit.data.pipeline import evaluation_batches
from keras_vit.data.source import Source
from keras_vit.evaluation import exported_model, label_metrics
from keras_vit.training import config as configs
from keras_vit.training import known_class_names
from keras_vit.training.image_sets import open_parts
from keras_vit.training.objectives import classifier

OTHER_CLASSES = (
    "Rename the class folders, or fine-tune the model (keras-vit finetune). If only the "
    "names differ, --set model.arguments.class_names=None compares their number only."
)


def evaluate(config: configs.Config) -> dict[str, Any]:
    """Evaluate `model.weights` on `data.test`, or on `data.validation` if that is None.

    Args:
        config: config that names the checkpoint or the export and the data set.

    Returns:
        Dict with `set` (the name of the data set), `images`, `unreadable` and the
        metrics. For multi-label images and regression these are the metrics of
        `keras_vit.evaluation.label_metrics`; otherwise `accuracy`, `top5`, `loss` (the
        mean negative log-likelihood under a softmax), and `confusion`, a nested list
        `(classes, classes)` whose rows are the labels and columns the predictions.

    Raises:
        ValueError: the config names no data set, the model has other classes than the
            data set, or an export does not fit the size of the images.
    """
    name = config.data.test or config.data.validation
    if not name:
        raise ValueError(
            "The config has no test images: --set data.test=folder:PATH, "
            "tfds:NAME:SPLIT or digits:test."
        )
    part = "test" if config.data.test else "validation"
    source = open_parts(config.data, [part])[part]
    weights = config.model.weights
    if weights is not None and exported_model.is_export(weights):
        model = exported_model.Export(weights)
        source = source.with_channels(model.input_shape[-1])
        _check_sizes(model, weights, source, config)
    else:
        model = classifier(config, classifier_activation=None)
    check_classes(model, name, source, config)
    if source.labels != "single":
        return _of_vectors(model, source, config)
    classes = source.num_classes
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


def _of_vectors(model, source, config):
    """Return the results for multi-label images or regression."""
    pairs = list(outputs(model, source, config))
    values, labels = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return {
        "set": source.name,
        "images": len(labels),
        "unreadable": source.num_examples - len(labels),
        **label_metrics.METRICS[source.labels](values, labels),
    }


def check_classes(model: Any, name: str, source: Source, config: configs.Config) -> None:
    """Raise a `ValueError` unless a model and a source have the same classes.

    Args:
        model: a `keras_vit` model, or an `Export`.
        name: name of the data set, for messages.
        source: the images.
        config: config with the checkpoint of the model.
    """
    weights, classes = config.model.weights, model.output_shape[-1]
    names = known_class_names.known(model, config)
    if names is not None:
        check_class_names(name, source.class_names, str(weights), names, OTHER_CLASSES)
    if classes != source.num_classes:
        raise ValueError(
            f"{weights} has {classes} classes, {name} has {source.num_classes}: "
            "fine-tune the model (keras-vit finetune), or probe its features "
            "(keras-vit probe)."
        )


def _check_sizes(export, path, source, config):
    """Raise ValueError unless the images of a source fit an export without resizing.

    Exports do not resize images, and resizing them differently from the checkpoint's own
    preprocessing would give a misleading accuracy.
    """
    if set(config.model.arguments) - {"class_names"}:
        raise ValueError(
            f"model.arguments={config.model.arguments!r} cannot change an exported "
            "model: leave them out, or evaluate the checkpoint."
        )
    sizes = source.image_shape or (None, None, source.channels)
    pairs = zip(export.input_shape[1:], sizes, strict=True)
    if None in sizes or any(wanted not in (None, size) for wanted, size in pairs):
        wanted, found = (
            "x".join("any" if n is None else str(n) for n in shape)
            for shape in (export.input_shape[1:], sizes)
        )
        raise ValueError(
            f"{path} takes images of {wanted}, all of the same size; those of "
            f"{source.name} have {found}: resize them, or evaluate the checkpoint."
        )


def outputs(
    model: keras.Model | exported_model.Export, source: Source, config: configs.Config
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Run a model on all images of a source, with a progress bar.

    Args:
        model: a `keras_vit` model, or an `Export`.
        source: the images.
        config: config with the batch size and the handling of unreadable images.

    Yields:
        Pairs of outputs, float64, and labels, one for each batch, without padding.
    """
    for images, labels, real in image_batches(model, source, config):
        yield np.asarray(model.predict_on_batch(images), "float64")[real], labels[real]


def image_batches(
    model: keras.Model | exported_model.Export, source: Source, config: configs.Config
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return all images of a source as inputs of a model, with a progress bar.

    Args:
        model: as for `outputs`.
        source: as for `outputs`.
        config: as for `outputs`.

    Yields:
        Images, labels and whether each is an image or padding, one tuple for each batch.
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
        yield images, labels, weights > 0
        progress.update(step + 1)


def published_accuracy(checkpoint: str) -> str | None:
    """Return the published ImageNet accuracy of a checkpoint and its source, or None.

    Args:
        checkpoint: name of a checkpoint, as in `keras_vit.checkpoints()`.
    """
    row = keras_vit.checkpoints().get(checkpoint)
    if row is None or row.imagenet_top1 is None:
        return None
    return (
        f"{row.imagenet_top1:.2f} % (ImageNet at "
        f"{row.top1_resolution or row.resolution} px, {row.top1_source})"
    )
