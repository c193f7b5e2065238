"""Weights of training images that balance classes of different sizes."""

from typing import Any

import numpy as np

from keras_vit.data.host import tensorflow
from keras_vit.data.source import Source


def check(class_weights: str | None, source: Source) -> None:
    """Check that the classes of a source can be weighted as a config requires.

    Args:
        class_weights: None or `"balanced"`.
        source: the training set.

    Raises:
        ValueError: another value, or the number of images in each class is unknown.
    """
    if class_weights is None:
        return
    if class_weights != "balanced":
        raise ValueError(
            f"data.class_weights must be None or 'balanced'; received {class_weights!r}."
        )
    if source.labels != "single":
        raise ValueError(
            "data.class_weights='balanced' requires one class per image; data.labels is "
            f"{source.labels!r}. Set it to None."
        )
    if source.class_counts is None:
        raise ValueError(
            "data.class_weights='balanced' requires the number of images of each class, "
            f"which {source.name!r} does not list. Set it to None, or use a folder."
        )


def balanced(source: Source) -> np.ndarray:
    """Return a weight for each class, inversely proportional to its number of images.

    The mean weight of the images is 1, so the learning rate keeps its meaning.

    Args:
        source: the training set.
    """
    counts = np.array(source.class_counts, "float32")
    present = counts > 0
    weights = np.zeros_like(counts)
    weights[present] = counts.sum() / (present.sum() * counts[present])
    return weights


def weighted(batches: Any, source: Source) -> Any:
    """Return batches of images and one-hot labels with a weight for each image.

    Args:
        batches: a `tf.data.Dataset` of images and labels `(b, classes)`, which may be
            mixtures of classes.
        source: the training set.
    """
    tf = tensorflow()
    weights = tf.constant(balanced(source))
    return batches.map(
        lambda images, labels: (images, labels, tf.linalg.matvec(labels, weights))
    )
