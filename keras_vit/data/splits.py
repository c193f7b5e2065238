"""Validation sets that are split off a training set."""

import dataclasses
import hashlib
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_vit.data.host import tensorflow
from keras_vit.data.source import Source
from keras_vit.data.tables import counts

PREFIX = "split:"


def is_split(name: str | None) -> bool:
    """Return True if the name of a data source stands for a split of the training set.

    Args:
        name: name of a data source, such as `"split:0.1"`, or None.
    """
    return name is not None and f"{name}:".startswith(PREFIX)


def split_off(source: Source, name: str) -> tuple[Source, Source]:
    """Split a source into two disjoint parts with the same classes.

    The same fraction is split off every class, rounded. Every class keeps at least one
    image, and a class of two or more images loses at least one. A hash of the seed and
    the image's id selects the images, so a folder is split in the same way on every
    machine.

    Args:
        source: a folder, or another source whose ids and labels are in memory.
        name: `"split:SHARE"` or `"split:SHARE:SEED"`: the fraction of the images to split
            off, above 0 and below 1, and an int (default: 0) that varies the selection.

    Returns:
        The remaining source, under its own name, and the part that was split off.

    Raises:
        ValueError: `name` is not of this form, the source cannot be split, or every class
            has a single image.

    Example:

    >>> from keras_vit.data import open_source, split_off
    >>> train, validation = split_off(open_source("digits"), "split:0.1")
    >>> train.num_examples, validation.num_examples
    (1131, 126)
    """
    share, seed = _parsed(name)
    if source.table is None:
        slices = tfds_slices(source.name, share)
        remedy = "data.train and data.validation to parts that do not overlap"
        if slices:
            remedy = "'data.train={}' and 'data.validation={}'".format(*slices)
        raise ValueError(
            f"{name!r} splits folders and not {source.name!r}. Set {remedy}."
        )
    labels = groups(source.table["label"], source.labels)
    taken = chosen(source.table["id"], labels, share, seed)
    if not taken.any():
        raise ValueError(
            f"{name!r} leaves no image for validation: every class of {source.name!r} "
            "has a single image. Add images, or set data.validation to another set."
        )
    split_name = f"{name} of {source.name}"
    return part(source, ~taken, source.name), part(source, taken, split_name)


def ids(sources: Mapping[str, Source]) -> dict[str, list[str]]:
    """Return the ids of the examples of each source: for a folder, the relative paths.

    Args:
        sources: dict from the name of a part to a source whose ids are in memory.
    """
    return {
        part: [
            os.fsdecode(i).encode(errors="replace").decode() for i in source.table["id"]
        ]
        for part, source in sources.items()
        if source.table is not None
    }


def tfds_slices(name: str, share: float) -> tuple[str, str] | None:
    """Return two slices of a TensorFlow Datasets set, or None for another set.

    Args:
        name: name of the set, without a slice.
        share: fraction of the images that is split off, rounded to percent.

    Returns:
        The names of the remaining part and of the part that is split off.
    """
    match = re.fullmatch(r"(tfds:[^:]+(?::[\d.*]+)?)(?::(\w+))?", name)
    if match is None:
        return None
    split = f"{match[1]}:{match[2] or 'train'}"
    percent = min(max(round(100 * (1 - share)), 1), 99)
    return f"{split}[:{percent}%]", f"{split}[{percent}%:]"


def _parsed(name):
    share, _, seed = name.removeprefix(PREFIX).partition(":")
    try:
        parsed = float(share), int(seed or 0)
    except ValueError:
        parsed = 0.0, 0
    if not 0 < parsed[0] < 1:
        raise ValueError(
            f"{name!r} is not of the form 'split:SHARE' or 'split:SHARE:SEED', with a "
            "SHARE above 0 and below 1 and an int as SEED: 'split:0.1' takes a tenth of "
            "the images of every class."
        )
    return parsed


def chosen(ids: Any, labels: Any, share: float, seed: int) -> Any:
    """Choose the same fraction of the examples of every label, by a hash of their ids.

    Args:
        ids: array of the ids.
        labels: array of ints.
        share: the fraction.
        seed: int, varies the choice.

    Returns:
        A bool array that marks the chosen examples. At least one example of every label
        is chosen and at least one is not, of a single one none.
    """
    taken = np.zeros(len(labels), bool)
    keys = np.array([_hash(seed, identifier) for identifier in ids])
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        most = len(own) - 1
        count = min(max(round(share * len(own)), 1), most)
        taken[own[np.argsort(keys[own], kind="stable")[:count]]] = True
    return taken


def groups(labels: Any, kind: str) -> Any:
    """Return the group of each example, an int; every group is split alike.

    A multi-label image belongs to the rarest of its classes, so that these are in both
    parts too. Values to predict are grouped into ten ranges of their first value.

    Args:
        labels: array of the labels.
        kind: `labels` of the source.
    """
    if kind == "multi":
        rarest = np.where(labels > 0, labels.sum(axis=0), np.inf).argmin(axis=1)
        return np.where(labels.any(axis=1), rarest, labels.shape[1])
    if kind == "regression":
        order = np.argsort(np.argsort(labels[:, 0], kind="stable"))
        ranges = max(min(10, len(labels) // 5), 1)
        return order * ranges // len(labels)
    return labels


def _hash(seed, identifier):
    data = identifier if isinstance(identifier, bytes) else identifier.encode()
    return hashlib.sha256(b"%d/" % seed + data).digest()[:8].hex()


def part(source: Source, chosen: Any, name: str) -> Source:
    """Return some of the examples of a source whose ids are in memory.

    Args:
        source: the source.
        chosen: bool array that marks the examples.
        name: name of the part.
    """
    assert source.table is not None
    assert source.listing is not None
    table = {key: values[chosen] for key, values in source.table.items()}
    index = np.flatnonzero(chosen)
    rows = source.listing

    def listing():
        everything = rows()
        return [everything[i] for i in index]

    return dataclasses.replace(
        source,
        name=name,
        num_examples=len(index),
        table=table,
        references=lambda: tensorflow().data.Dataset.from_tensor_slices(table),
        listing=listing,
        class_counts=counts(table["label"], source.num_classes, source.labels),
    )
