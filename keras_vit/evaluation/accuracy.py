"""Accuracy of a checkpoint or an export on labeled images."""

import math
import os
import sys
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

import keras_vit
from keras_vit import exported_model
from keras_vit.data import dark_images
from keras_vit.data.class_names import check_class_names
from keras_vit.data.host_share import in_turn, parts_of_all
from keras_vit.data.pipeline import evaluation_batches
from keras_vit.data.source import Source
from keras_vit.evaluation import label_metrics
from keras_vit.evaluation.classified import Collector, Predictions
from keras_vit.training import config as configs
from keras_vit.training import known_class_names
from keras_vit.training.devices import predictor
from keras_vit.training.image_sets import open_parts
from keras_vit.training.networks import activation, classifier

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
    model, source = open_evaluation(config)
    if source.labels != "single":
        return of_vectors(model, source, config)
    return summary(predictions(model, source, config), source)


def open_evaluation(
    config: configs.Config,
) -> tuple[keras.Model | exported_model.Export, Source]:
    """Load `model.weights` as a classifier, and open the images to evaluate it on.

    Args:
        config: config that names the checkpoint or the export and the data set.

    Returns:
        The model, which returns logits, and `data.test`, or `data.validation` if that is
        None.

    Raises:
        ValueError: as for `evaluate`.
    """
    name = config.data.test or config.data.validation
    if not name:
        raise ValueError(
            "The config has no test images: --set data.test=folder:PATH, "
            "tfds:NAME:SPLIT or digits:test."
        )
    part = "test" if config.data.test else "validation"
    source = open_parts(config.data, [part])[part]
    return classifier_of(config, source), source


def predictions(
    model: keras.Model | exported_model.Export, source: Source, config: configs.Config
) -> Predictions:
    """Run a classifier on every image of a source once, and keep its probabilities.

    Args:
        model: a `keras_vit` model that returns logits, or an `Export`.
        source: the images.
        config: config with the batch size, the handling of unreadable images and the
            loss, which decides whether the probabilities are those of a softmax.
    """
    collector = Collector(source.class_names, activation(config) or "softmax")
    predict = predictor(model)
    for images, labels, real, ids in _examples(model, source, config):
        logits = np.asarray(predict(images), "float64")
        names = [os.fsdecode(name) for name in ids[real]]
        collector.add(logits[real], labels[real], names, images[real])
    return collector.predictions()


def summary(found: Predictions, source: Source) -> dict[str, Any]:
    """Return the results of `evaluate` for the predictions on a source."""
    classes, seen = source.num_classes, len(found.labels)
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (found.labels, found.predicted), 1)
    return {
        "set": source.name,
        "images": seen,
        "unreadable": source.num_examples - seen,
        "accuracy": int(np.trace(confusion)) / seen,
        "top5": int((found.ranks < 5).sum()) / seen,
        "loss": float(found.losses.sum()) / seen,
        "confusion": confusion.tolist(),
    }


def of_vectors(
    model: keras.Model | exported_model.Export, source: Source, config: configs.Config
) -> dict[str, Any]:
    """Return the results of `evaluate` for multi-label images or regression."""
    pairs = list(outputs(model, source, config))
    own = [np.concatenate(part) for part in zip(*pairs, strict=True)]
    values, labels = map(in_turn, zip(*parts_of_all(own), strict=True))
    if source.labels == "multi":
        metrics = label_metrics.multi_label(values, labels)
    else:
        metrics = label_metrics.regression(values, labels, config.data.scale)
    return {
        "set": source.name,
        "images": len(labels),
        "unreadable": source.num_examples - len(labels),
        **metrics,
    }


def classifier_of(
    config: configs.Config, source: Source
) -> keras.Model | exported_model.Export:
    """Load `model.weights` as a classifier that returns logits.

    Args:
        config: config that names the checkpoint or the export.
        source: the images that it is for.

    Raises:
        ValueError: the model has other classes than the images, or an export does not fit
            their size.
    """
    weights = config.model.weights
    if weights is not None and exported_model.is_export(weights):
        model = exported_model.Export(weights)
        fitted = source.with_channels(model.input_shape[-1])
        _check_sizes(model, weights, fitted, config)
    else:
        model = classifier(config, classifier_activation=None)
    check_classes(model, source.name, source, config)
    return model


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
        Pairs of outputs, float64, and labels, one for each batch, without padding. One of
        several processes yields its part of them.
    """
    predict = predictor(model)
    for images, labels, real, _ in _examples(model, source, config):
        yield np.asarray(predict(images), "float64")[real], labels[real]


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
    for images, labels, real, _ in _examples(model, source, config):
        yield images, labels, real


def _examples(model, source, config):
    """Yield the batches of `image_batches`, each with the ids of its images."""
    dark_images.warn(source)
    batches = evaluation_batches(
        source.with_channels(model.input_shape[-1]),
        model.preprocessor,
        config.batch_size,
        unreadable=config.data.unreadable,
        ids=True,
    )
    steps = math.ceil(source.num_examples / config.batch_size)
    progress = keras.utils.Progbar(steps, verbose=int(sys.stdout.isatty()))
    for step, (images, labels, weights, ids) in enumerate(batches.as_numpy_iterator()):
        yield images, labels, weights > 0, ids
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
