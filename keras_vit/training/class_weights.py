"""Weights of training images that balance classes of different sizes."""

from typing import Any

import numpy as np

from keras_vit.data.host import tensorflow
from keras_vit.data.sampling import check_sampling
from keras_vit.data.source import Source
from keras_vit.training import config as configs


def check(config: configs.Config, source: Source) -> None:
    """Check that the classes of a source can be balanced as a config requires.

    Args:
        config: config of the run.
        source: the training set.

    Raises:
        ValueError: `data.class_weights` or `data.sampling` has another value than None
            and `"balanced"`, both are set, or the classes cannot be balanced.
    """
    check_sampling(config.data.sampling, source)
    class_weights = config.data.class_weights
    if class_weights is None:
        return
    if class_weights != "balanced":
        raise ValueError(
            f"data.class_weights must be None or 'balanced'; received {class_weights!r}."
        )
    if config.data.sampling is not None:
        raise ValueError(
            "data.class_weights and data.sampling are both 'balanced', which would favor "
            "small classes twice. Set one of them to None."
        )
    if config.objective != "classification":
        raise ValueError(
            "data.class_weights='balanced' requires objective='classification'; received "
            f"{config.objective!r}. Set data.class_weights to None."
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
