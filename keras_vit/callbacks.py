"""Callbacks for `fit` of any Keras model."""

import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

__all__ = ["Report"]


class Report(keras.callbacks.Callback):
    """Callback that writes a report on a classifier at the end of `fit`.

    The report is one HTML page that needs no other file: learning curves, accuracy with a
    confidence interval, precision, recall and F1 of every class, the confusion matrix,
    calibration, and the images with the highest loss. For a `keras_vit` model it also
    shows where the model looks. The predictions are written next to it, as CSV.

    The images are read once, in batches, and only the predictions are kept. A report that
    cannot be written is a warning, because an error would lose the history of `fit`.

    Args:
        validation_data: `(images, labels)`, arrays as they are passed to `fit`, or a data
            set of batches `(images, labels)` or `(images, labels, weights)`. Labels are
            class numbers or one-hot.
        path: HTML file to write. The predictions go to a CSV file of the same name.
        class_names: names of the classes in the order of the labels; None for those of
            the model, or else numbers.
        from_logits: bool, whether the model returns logits instead of probabilities, as
            in Keras's losses.
        batch_size: int, number of images in a batch of arrays.

    Raises:
        ValueError: the arguments do not fit each other.

    Example:

    >>> import keras_vit, numpy as np, pathlib, tempfile
    >>> model = keras_vit.ViT((8, 8, 1), patch_size=4, hidden_dim=16, num_layers=1,
    ...     num_heads=2, mlp_dim=16, classes=2)
    >>> images = np.random.default_rng(0).normal(size=(20, 8, 8, 1)).astype("float32")
    >>> labels = np.arange(20) % 2
    >>> path = pathlib.Path(tempfile.mkdtemp(), "report.html")
    >>> report = keras_vit.callbacks.Report(
    ...     (images, labels), path, class_names=["cat", "dog"])
    >>> model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    >>> history = model.fit(images, labels, callbacks=[report], verbose=0)
    >>> sorted(file.name for file in path.parent.iterdir())
    ['report.csv', 'report.html']
    """

    def __init__(
        self,
        validation_data: Any,
        path: str | os.PathLike = "report.html",
        class_names: Sequence[str] | None = None,
        from_logits: bool = False,
        batch_size: int = 32,
    ):
        super().__init__()
        if isinstance(validation_data, tuple):
            if len(validation_data) not in (2, 3):
                raise ValueError(
                    "validation_data must be (images, labels) or a data set; received a "
                    f"tuple of {len(validation_data)}."
                )
            images, labels = validation_data[:2]
            if len(images) != len(labels):
                raise ValueError(
                    f"validation_data has {len(images)} images and {len(labels)} labels."
                )
        self.validation_data, self.path = validation_data, pathlib.Path(path)
        self.class_names, self.from_logits = class_names, from_logits
        self.batch_size = batch_size

    def on_train_end(self, logs=None):
        try:
            self.write()
        except Exception as error:
            warnings.warn(
                f"The report {self.path} was not written: {type(error).__name__}: "
                f"{error}",
                stacklevel=2,
            )

    def write(self) -> pathlib.Path:
        """Write the report on the model as it is now.

        Returns:
            The path of the page.
        """
        # These need matplotlib and scikit-learn, which training does not.
        from keras_vit.evaluation.report import measured_sections, picture_sections
        from keras_vit.visualize.page import write_page

        found = self._predictions()
        history = getattr(getattr(self.model, "history", None), "history", None) or {}
        facts = {
            "model": f"{type(self.model).__name__} {self.model.name}, "
            f"{self.model.count_params():,} parameters"
        }
        sections = [
            *measured_sections(found, "the validation images", facts, history, "epoch"),
            *picture_sections(self.model, found),
        ]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        found.write(self.path.with_suffix(".csv"))
        return write_page(self.path, f"Report on {self.model.name}", sections)

    def _predictions(self):
        from keras_vit.evaluation.classified import Collector

        collector, seen = None, 0
        for images, labels, counts in self._batches():
            outputs = np.asarray(self.model.predict_on_batch(images), "float64")
            if not counts.any():
                continue
            images, labels, outputs = images[counts], labels[counts], outputs[counts]
            known = _activation(self.model) if collector is None else collector.activation
            logits, activation = _logits(outputs, self.from_logits, known)
            if collector is None:
                names = self._names(logits.shape[-1])
                collector = Collector(names, activation)
            ids = [str(number) for number in range(seen, seen + len(labels))]
            collector.add(logits, _numbers(labels, logits.shape[-1]), ids, images)
            seen += len(labels)
        if collector is None:
            raise ValueError("validation_data has no images.")
        return collector.predictions()

    def _batches(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield the images and the labels of each batch, and which of them count."""
        to_numpy = keras.ops.convert_to_numpy
        if isinstance(self.validation_data, tuple):
            images, labels, *weights = self.validation_data
            for start in range(0, len(images), self.batch_size):
                part = slice(start, start + self.batch_size)
                own = [weight if weight is None else weight[part] for weight in weights]
                counts = _counts(own, labels[part])
                yield to_numpy(images[part]), to_numpy(labels[part]), counts
        else:
            for images, labels, *weights in self.validation_data:
                counts = _counts(weights, labels)
                yield to_numpy(images), to_numpy(labels), counts

    def _names(self, classes):
        names = self.class_names
        if names is None and hasattr(self.model, "preprocessor"):
            names = self.model.get_config().get("class_names")
        if names is None:
            names = [str(number) for number in range(classes)]
        if len(names) != classes:
            raise ValueError(
                f"class_names has {len(names)} names; the model has {classes} classes."
            )
        return names


def write_run_report(
    workdir: str | os.PathLike, config: Any, sources: Mapping[str, Any]
) -> bool:
    """Write report.html and predictions.csv of a training run that has ended.

    Args:
        workdir: directory of the run.
        config: config of the run.
        sources: dict of its data sets.

    Returns:
        True if the report was written. An error is printed as a warning.
    """
    from keras_vit.evaluation import report

    return report.write_run_report(workdir, config, sources)


def _counts(weights, labels):
    """Return which images of a batch count: padding has the weight 0."""
    if not weights or weights[0] is None:
        return np.ones(len(labels), bool)
    return np.reshape(keras.ops.convert_to_numpy(weights[0]), (len(labels), -1)).any(1)


def _activation(model):
    """Return `"softmax"` or `"sigmoid"` if the last layer ends in it, or None."""
    layers = getattr(model, "layers", None) or [None]
    name = getattr(getattr(layers[-1], "activation", None), "__name__", None)
    return name if name in ("softmax", "sigmoid") else None


def _logits(outputs, from_logits, activation):
    """Return the logits for the outputs of a model, and the name of its activation.

    Args:
        outputs: `(b, classes)`.
        from_logits: whether they are logits.
        activation: the activation if it is known; None to guess it from the sums.
    """
    if outputs.ndim != 2:
        raise ValueError(
            "Report needs a classifier with outputs (batch, classes); received "
            f"{outputs.shape}."
        )
    if outputs.shape[1] == 1:  # A sigmoid for the second of two classes.
        if from_logits:
            return np.concatenate([np.zeros_like(outputs), outputs], axis=1), "softmax"
        outputs, activation = np.concatenate([1 - outputs, outputs], axis=1), "softmax"
    if from_logits:
        return outputs, "softmax"
    if outputs.min() < 0 or outputs.max() > 1 + 1e-3:
        raise ValueError(
            f"The outputs of the model are between {outputs.min():.4g} and "
            f"{outputs.max():.4g}, and no probabilities: pass from_logits=True."
        )
    # The smallest float32 keeps a probability that was rounded to 0 from infinite loss.
    outputs = np.maximum(outputs, np.finfo("float32").tiny)
    if activation is None:
        adds_up = np.abs(outputs.sum(axis=1) - 1).max() < 0.02
        activation = "softmax" if adds_up else "sigmoid"
    if activation == "softmax":
        return np.log(outputs), "softmax"
    return np.log(outputs) - np.log(np.maximum(1 - outputs, 1e-7)), "sigmoid"


def _numbers(labels, classes):
    """Return class numbers `(b,)` for labels that are class numbers or one-hot."""
    if labels.ndim == 2 and labels.shape[1] == classes and classes > 1:
        return labels.argmax(axis=1)
    numbers = labels.reshape(-1).astype("int64")
    if numbers.size != len(labels) or numbers.min() < 0 or numbers.max() >= classes:
        raise ValueError(
            f"Labels must be class numbers from 0 to {classes - 1} or one-hot; received "
            f"an array {labels.shape} with values up to {labels.max()}."
        )
    return numbers
