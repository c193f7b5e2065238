"""Summary of data sets for a person: classes, sizes, imbalance and files left out."""

import io
import os
from collections.abc import Mapping

import numpy as np

from keras_vit.data import other_formats
from keras_vit.data.source import Source

# Number of classes that are listed: the first ones and the last ones.
_FIRST, _LAST = 20, 3
# Number of images whose size is read.
SAMPLE = 64
# Ratio of the largest to the smallest class above which the summary reports it.
_IMBALANCE = 2


def summary(sources: Mapping[str, Source]) -> str:
    """Return a text that describes data sets, without decoding any image.

    Args:
        sources: dict from `train`, `validation` and `test` to the data sets, which have
            the same classes.
    """
    rows = [
        (part, f"{source.num_examples:,} images, {source.name}")
        for part, source in sources.items()
    ]
    rows += [("classes", text) for text in _classes(sources)[:1]]
    rows += [("", text) for text in _classes(sources)[1:]]
    rows += _sizes(sources["train"])
    if text := imbalance(sources["train"]):
        rows.append(("imbalance", text))
        if sources["train"].labels == "single" and sources["train"].table is not None:
            rows.append(
                ("", "--set data.sampling=balanced draws all classes equally often")
            )
    left_out = {s.left_out: s.name for s in sources.values() if s.left_out}
    rows += [("left out", text) for text in left_out]
    return table("Images", rows)


def table(title: str, rows: list[tuple[str, str]]) -> str:
    """Return a title and rows of a name and a text, aligned.

    Args:
        title: the first line.
        rows: pairs of a name and a text.
    """
    lines = [f"  {name:13}{text}" for name, text in rows]
    return "\n".join([title, *lines])


def imbalance(source: Source) -> str | None:
    """Return a sentence about classes of very different sizes, or None.

    Args:
        source: the training set.
    """
    if source.class_counts is None:
        return None
    counts = np.array(source.class_counts)
    large, small = counts.argmax(), counts.argmin()
    largest, smallest = (
        f"{source.class_names[i]} ({counts[i]:,})" for i in (large, small)
    )
    if counts[small] == 0:
        return f"{smallest} has no image, {largest} is the largest class"
    ratio = counts[large] / counts[small]
    if ratio < _IMBALANCE:
        return None
    return f"{largest} has {ratio:.1f} times as many images as {smallest}"


def _classes(sources):
    """Return a heading and one line per class with its number of images in each set."""
    train = sources["train"]
    if train.labels == "regression":
        return _values(train)
    names = list(train.class_names)
    counted = {part: s.class_counts for part, s in sources.items() if s.class_counts}
    shown = list(range(len(names)))
    if len(names) > _FIRST + _LAST + 1:
        shown = [*range(_FIRST), *range(len(names) - _LAST, len(names))]
    width = min(max(len(names[i]) for i in shown), 40)
    heading = f"{len(names):,}"
    if counted:
        heading = f"{heading:{width}}" + "".join(f"{part:>12}" for part in counted)
    lines = [heading]
    for before, i in zip([-1, *shown], shown, strict=False):
        if i != before + 1:
            lines.append(f"... {i - before - 1:,} more")
        counts = "".join(f"{counts[i]:12,}" for counts in counted.values())
        lines.append(f"{names[i]:{width}}{counts}")
    return lines


def _values(source):
    """Return a line about each of the values to predict."""
    lines = [f"{source.num_classes} values to predict"]
    for name, values in zip(source.class_names, source.table["label"].T, strict=True):
        low, mean, high = values.min(), values.mean(), values.max()
        lines.append(f"{name}: {low:.4g} to {high:.4g}, mean {mean:.4g}")
    return lines


def _sizes(source):
    """Return rows about the sizes of the images, and about files that are no images."""
    if not source.encoded and source.image_shape is not None:
        height, width, channels = source.image_shape
        return [("sizes", f"{width}x{height} pixels, {channels} channels")]
    sizes, damaged = image_sizes(source)
    number = len(sizes) + len(damaged)
    rows, looked = [], f"({number} images were looked at)"
    if sizes:
        sizes.sort(key=lambda size: size[0] * size[1])
        chosen = (sizes[0], sizes[len(sizes) // 2], sizes[-1])
        small, middle, large = (f"{width}x{height}" for width, height in chosen)
        text = f"{small} pixels {looked}"
        if small != large:
            text = f"{small} to {large} pixels, median {middle} {looked}"
        rows.append(("sizes", text))
    if damaged:
        more = ", ..." * (len(damaged) > 1)
        rows.append(
            (
                "unreadable",
                f"{len(damaged)} of {number} ({damaged[0]}{more}): the run "
                "stops at the first; --set data.unreadable=skip leaves them out",
            )
        )
    return rows


def image_sizes(source: Source) -> tuple[list[tuple[int, int]], list[str]]:
    """Return the widths and heights of a sample of image files, from their headers.

    Args:
        source: a source of encoded images.

    Returns:
        The sizes, and the ids of the files in the sample that are not images.
    """
    from PIL import Image

    found, damaged = [], []
    for name, file in _sample(source):
        try:
            found.append(other_formats.size(file))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            damaged.append(name)
    return found, damaged


def _sample(source):
    """Yield ids and files of a source, or their contents, evenly over the classes."""
    if source.table is None:
        for example in source.examples().take(SAMPLE):
            yield _text(example["id"].numpy()), io.BytesIO(example["image"].numpy())
        return
    images, names = source.table["image"], source.table["id"]
    for i in np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).astype(int):
        file = images[i]
        if images.dtype != object:
            file = io.BytesIO(np.asarray(source.read(file)).item())
        yield _text(names[i]), file if isinstance(file, io.BytesIO) else os.fsdecode(file)


def _text(identifier):
    return os.fsdecode(identifier).encode(errors="replace").decode()
