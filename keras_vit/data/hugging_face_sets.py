"""Directories of the Hugging Face library `datasets`."""

import os
import pathlib
import zlib
from typing import Any

import numpy as np

from keras_vit.data.files import contents, missing
from keras_vit.data.folders import SPLITS
from keras_vit.data.host import tensorflow
from keras_vit.data.source import Source
from keras_vit.data.tables import counts

# The default name of the column of labels.
LABEL = "label"


def is_directory(path: pathlib.Path) -> bool:
    """Return True if a directory was written by `save_to_disk` or holds Parquet files.

    Args:
        path: the directory.
    """
    if _saved(path) or any((path / "data").glob("*.parquet")):
        return True
    folders = any(entry.is_dir() for entry in path.iterdir())
    return not folders and any(path.glob("*.parquet"))


def _saved(path):
    one = (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    return one or (path / "dataset_dict.json").is_file()


def open_directory(path: pathlib.Path) -> dict[str, Any]:
    """Return the data sets in a directory by their splits, `""` without splits.

    Args:
        path: a directory that `save_to_disk` wrote, or one with Parquet files.

    Raises:
        ImportError: the library is not installed.
        ValueError: the library cannot read the directory.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            f"Reading {path} needs the Hugging Face library: pip install datasets. Or "
            "save the images in one folder for each class."
        ) from error
    try:
        if _saved(path):
            found = datasets.load_from_disk(str(path))
        else:
            found = datasets.load_dataset(str(path))
    except Exception as error:  # The library raises errors of many classes.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{path} cannot be read by datasets: {reason}") from error
    return dict(found) if isinstance(found, dict) else {"": found}


def parts(path: pathlib.Path) -> dict[str, str]:
    """Return the names of the splits in a directory by their part of a run.

    Args:
        path: the directory.

    Returns:
        Dict from `train`, `validation` and `test` to a split; `{"train": ""}` without
        splits.
    """
    names = list(open_directory(path))
    if len(names) == 1 and names[0].lower() not in SPLITS["test"]:
        return {"train": names[0]}
    found: dict[str, str] = {}
    for part, known in SPLITS.items():
        for name in names:
            if name.lower() in known:
                found.setdefault(part, name)
    return found


def directory_path(rest: str) -> tuple[pathlib.Path, str]:
    """Return the path and the split in the name of a directory.

    Args:
        rest: `PATH` or `PATH:SPLIT`.
    """
    if os.path.isdir(os.path.expanduser(rest)):
        return pathlib.Path(rest).expanduser(), ""
    before, _, split = rest.rpartition(":")
    return pathlib.Path(before).expanduser(), split


def datasets_source(name: str, rest: str, label_column: str = LABEL) -> Source:
    """Return the `Source` of `datasets:PATH[:SPLIT]`; see `sources.open_source`."""
    path, split = directory_path(rest)
    if not path.is_dir():
        raise FileNotFoundError(f"{name!r}: {path} is not a folder.")
    found = open_directory(path)
    split = split or ("train" if "train" in found else next(iter(found)))
    if split not in found:
        raise ValueError(f"{name!r} has no split {split!r}, only {', '.join(found)}.")
    data = found[split]
    column, label, kind = _columns(name, data.features, label_column)
    names, labels = _labels(name, data, label, kind)
    import datasets

    images = data.select_columns([column])
    images = images.cast_column(column, datasets.Image(decode=False))
    files = [file["filename"] for file in data.cache_files]
    first = split or "example"
    table = {
        "image": np.arange(len(labels)),
        "label": labels,
        "id": np.array([f"{first}-{i}".encode() for i in range(len(labels))]),
    }

    def fetch(index):
        row = images[int(index)][column]
        return row["bytes"] or pathlib.Path(row["path"]).read_bytes()

    def read(index):
        tf = tensorflow()
        return tf.ensure_shape(tf.numpy_function(fetch, [index], tf.string), ())

    def listing():
        state = f"{zlib.crc32(' '.join(contents(files)).encode()):08x}"
        return [(f"{first}-{i}", label, state) for i, label in enumerate(labels.tolist())]

    return Source(
        name,
        num_examples=len(labels),
        num_classes=len(names),
        class_names=names,
        image_shape=None,
        channels=3,
        references=lambda: tensorflow().data.Dataset.from_tensor_slices(table),
        reference_bytes=100,
        read=read,
        encoded=True,
        class_counts=counts(labels, len(names), kind),
        table=table,
        listing=listing,
        lost=lambda: missing([path, *files]),
        labels=kind,
    )


def kind_of(path: pathlib.Path, label_column: str = LABEL) -> str:
    """Return the kind of the labels in a directory, as in `data.labels`.

    Args:
        path: the directory.
        label_column: name of the column of labels; `"label"` finds the only one.
    """
    data = next(iter(open_directory(path).values()))
    return _columns(str(path), data.features, label_column)[2]


def _columns(name, features, label_column):
    """Return the columns of the images and of the labels, and the kind of the labels."""
    import datasets

    images = [key for key, kind in features.items() if isinstance(kind, datasets.Image)]
    kinds = {
        key: kind
        for key, feature in features.items()
        if (kind := _kind(feature, key in (LABEL, "labels", label_column)))
    }
    if label_column != LABEL and label_column not in kinds:
        raise ValueError(
            f"{name!r} has no column of labels {label_column!r}; its columns are "
            f"{', '.join(features)}."
        )
    named = [key for key in (label_column, LABEL, "labels") if key in kinds] or [*kinds]
    if not images or not named:
        raise ValueError(
            f"{name!r} needs a column of images (Image) and one of labels (ClassLabel, "
            f"or 'label'); it has {dict(features)}."
        )
    if named[0] not in (label_column, LABEL, "labels") and len(named) > 1:
        raise ValueError(
            f"{name!r} has several columns of labels, {', '.join(named)}: choose one "
            "with --label-column NAME (data.label_column)."
        )
    return images[0], named[0], kinds[named[0]]


def _kind(feature, named):
    """Return the kind of labels in a column, or None if it has none.

    Args:
        feature: the type of the column.
        named: bool, whether its name is that of a column of labels.
    """
    import datasets

    sequences = (datasets.Sequence, getattr(datasets, "List", datasets.Sequence))
    if isinstance(feature, datasets.ClassLabel):
        return "single"
    if isinstance(feature, sequences):
        inner = _kind(feature.feature, named)
        return "multi" if inner == "single" else None
    if named and isinstance(feature, datasets.Value):
        return "regression" if "float" in feature.dtype else "single"
    return None


def _labels(name, data, column, kind):
    """Return the names of the classes or values, and the labels."""
    values = data[column][:]
    feature = data.features[column]
    feature = getattr(feature, "feature", feature)
    # Sets with hidden labels have the class -1 for all images.
    hidden = -1 if hasattr(feature, "names") else None

    def is_absent(value):
        if isinstance(value, list):
            return any(map(is_absent, value))
        return value is None or value == hidden or value != value

    absent = list(map(is_absent, values))
    if any(absent):
        raise ValueError(
            f"{name!r}: {sum(absent)} of {len(values)} images have no label (-1, None or "
            f"NaN) in the column {column!r}. Choose another split, or set data.test=None."
        )
    if kind == "regression":
        return (column,), np.array(values, "float32")[:, None]
    flat = [v for row in values for v in row] if kind == "multi" else values
    names = getattr(feature, "names", None)
    if names is None:
        names = sorted(set(flat))
        index = {value: i for i, value in enumerate(names)}
        values = (
            [[index[v] for v in row] for row in values]
            if kind == "multi"
            else [index[v] for v in values]
        )
    names = tuple(map(str, names))
    if kind == "single":
        return names, np.array(values, "int64")
    labels = np.zeros((len(values), len(names)), "float32")
    for row, own in zip(labels, values, strict=True):
        row[own] = 1
    return names, labels
