"""Fractions of a training set, to study the effect of its size."""

import dataclasses

import numpy as np

from keras_vit.data.source import Source
from keras_vit.data.splits import chosen, groups, part


def subset(source: Source, fraction: float) -> Source:
    """Return a fraction of a source, always the same one.

    A smaller fraction is a part of every larger one. Of a source whose ids and labels are
    in memory, such as a folder, the same fraction of every class is chosen by a hash of
    the images' ids, and every class keeps at least one image. For a TensorFlow
    Datasets set, the first images are taken; TFDS shuffles most sets when it writes them.

    Args:
        source: the whole set.
        fraction: fraction of the images, above 0 and at most 1.

    Raises:
        ValueError: the fraction is out of its range, or leaves no image.

    Example:

    >>> from keras_vit.data import open_source
    >>> from keras_vit.data.subsets import subset
    >>> subset(open_source("digits"), 0.1).num_examples
    126
    """
    if not 0 < fraction <= 1:
        raise ValueError(
            f"data.fraction must be above 0 and at most 1; received {fraction}."
        )
    if fraction == 1:
        return source
    name = f"{fraction:g} of {source.name}"
    if source.table is not None:
        labels = groups(source.table["label"], source.labels)
        taken = chosen(source.table["id"], labels, fraction, seed=0)
        return part(source, taken | _single(labels), name)
    count = round(fraction * source.num_examples)
    if not count:
        raise ValueError(
            f"data.fraction={fraction} of the {source.num_examples} images of "
            f"{source.name!r} is none: set a larger fraction."
        )
    return dataclasses.replace(
        source,
        name=name,
        num_examples=count,
        references=lambda: source.references().take(count),
        class_counts=None,
    )


def _single(labels):
    """Return a bool array that marks the only examples of their class."""
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return counts[inverse] == 1
