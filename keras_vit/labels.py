"""Class names for predictions."""

import importlib.resources
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


def imagenet_1k():
    """Return one `[synset id, name]` pair for each class of ImageNet-1k, in order."""
    text = importlib.resources.files("keras_vit").joinpath("data", "imagenet_1k.txt")
    return [line.split() for line in text.read_text("utf-8").splitlines()]


def decode_predictions(
    predictions: Any, top: int = 5, labels: Sequence[str] | None = None
) -> list[list[tuple]]:
    """Decode predictions into the names of the most likely classes.

    This function works like `keras.applications.imagenet_utils.decode_predictions`, but
    the class names ship with the package, so nothing is downloaded.

    Args:
        predictions: array or tensor of shape `(b, classes)` with probabilities or logits.
            The scores are returned unchanged.
        top: int, number of classes to return for each image. If there are fewer classes,
            all of them are returned.
        labels: sequence of class names, one for each column of `predictions`, or None for
            the 1000 classes of ImageNet-1k in the order that all published checkpoints
            use.

    Returns:
        List of b lists of `top` tuples `(synset id, name, score)`, best first. With
        `labels`, the first entry of each tuple is the column index, an int. Classes with
        equal scores are returned in column order.

    Raises:
        ValueError: if `predictions` is not a matrix with one column for each label, or
            `top` is not a positive int.

    Example:

    >>> import numpy as np, keras_vit
    >>> predictions = np.zeros((1, 1000))
    >>> predictions[0, 207] = 0.75
    >>> keras_vit.decode_predictions(predictions, top=1)
    [[('n02099601', 'golden_retriever', 0.75)]]
    >>> keras_vit.decode_predictions([[0.25, 0.75]], top=1, labels=["cat", "dog"])
    [[(1, 'dog', 0.75)]]

    Reference: synsets of ILSVRC2012, with the names that `keras.applications` uses.
    """
    if not isinstance(top, int) or top < 1:
        raise ValueError(f"top must be a positive int; received {top!r}.")
    scores = keras.ops.convert_to_numpy(predictions).astype("float64")
    if labels is None:
        classes = imagenet_1k()
        remedy = "for classes other than ImageNet-1k, pass their names as labels=[...]."
    else:
        classes = list(enumerate(labels))
        remedy = "labels must have one name for each column."
    if scores.ndim != 2 or scores.shape[1] != len(classes):
        if scores.shape == (len(classes),):
            remedy = "for a single image, pass predictions[None]."
        raise ValueError(
            f"Expected predictions of shape (b, {len(classes)}); received "
            f"{scores.shape}: {remedy}"
        )
    columns = np.argsort(-scores, axis=-1, kind="stable")[:, :top]
    return [
        [(*classes[column], float(row[column])) for column in best]
        for row, best in zip(scores, columns, strict=True)
    ]
