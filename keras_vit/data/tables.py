"""Tables of image paths and labels, in CSV or Parquet files."""

import collections
import csv
import dataclasses
import difflib
import math
import os
import pathlib

import numpy as np

from keras_vit.data.files import contents, missing
from keras_vit.data.folders import SPLITS, counted, image_suffixes
from keras_vit.data.host import tensorflow
from keras_vit.data.source import Source

SUFFIXES = (".csv", ".tsv", ".parquet")
# Column that assigns rows to splits.
SPLIT_COLUMN = "split"
# Separator of the labels of one image.
SEPARATOR = ";"
KINDS = ("single", "multi", "regression")
# Number of rows or files that an error lists.
_LISTED = 3


@dataclasses.dataclass(frozen=True)
class Columns:
    """Columns of a table.

    Attributes:
        path: name of the column with the paths of the images.
        labels: names of the columns with the labels, usually one.
    """

    path: str = "path"
    labels: tuple[str, ...] = ("label",)


def split_names(text: str) -> tuple[str, ...]:
    """Return the names in a text that separates them by commas.

    Args:
        text: the text.
    """
    return tuple(name.strip() for name in text.split(",") if name.strip())


@dataclasses.dataclass(frozen=True)
class Row:
    """Row of a table.

    Attributes:
        place: place of the row in its file, for error messages.
        path: path of the image as the table has it.
        labels: texts of the label columns.
        split: `train`, `validation` or `test`; empty without a column of splits.
    """

    place: str
    path: str
    labels: tuple[str, ...]
    split: str


def is_table(path: str | os.PathLike) -> bool:
    """Return True if a path ends like the file of a table.

    Args:
        path: the path.
    """
    return os.fspath(path).lower().endswith(SUFFIXES)


def read_rows(path: pathlib.Path, columns: Columns) -> list[Row]:
    """Read the rows of a table, without opening any image.

    Args:
        path: a CSV file with a header, separated by commas, tabs or semicolons, or a
            Parquet file.
        columns: the names of the columns.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the file is in Parquet, and pyarrow is not installed.
        ValueError: a column is missing, a row is invalid, or there are no rows.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no table at {path}.")
    read = _parquet if path.suffix.lower() == ".parquet" else _csv
    header, cells = read(path)
    for name, option in (
        (columns.path, "--path-column"),
        *((name, "--label-column") for name in columns.labels),
    ):
        if name not in header:
            near = difflib.get_close_matches(name, header, 1)
            raise ValueError(
                f"{path} has no column {name!r}, only {', '.join(map(repr, header))}."
                + (f" Did you mean {near[0]!r}?" if near else "")
                + f" Name the column with {option}."
            )
    index = [header.index(name) for name in (columns.path, *columns.labels)]
    split = header.index(SPLIT_COLUMN) if SPLIT_COLUMN in header else None
    rows = []
    for place, values in cells:
        if len(values) != len(header):
            raise ValueError(
                f"{place} has {len(values)} values, the header has {len(header)}. Quote "
                "values that contain the separator."
            )
        name, *labels = (values[i].strip() for i in index)
        if not name:
            raise ValueError(f"{place} has no path in the column {columns.path!r}.")
        part = "" if split is None else _part(values[split].strip(), place)
        rows.append(Row(place, name, tuple(labels), part))
    if not rows:
        raise ValueError(f"{path} has a header and no rows.")
    return rows


def _csv(path):
    """Return the header of a CSV file, and its rows with their places."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            first = file.readline()
            file.seek(0)
            # A separator of labels may occur in the rows, but not in the header.
            delimiter = next((mark for mark in ",\t;" if mark in first), ",")
            reader = csv.reader(file, delimiter=delimiter)
            header = [name.strip() for name in next(reader, [])]
            rows = [
                (f"{path}, line {reader.line_num}", values) for values in reader if values
            ]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path} is not a CSV file in UTF-8: {error}") from None
    return header, rows


def _parquet(path):
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            f"Reading {path} needs pyarrow: pip install pyarrow. Or save it as CSV."
        ) from error
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is not a Parquet file: {error}") from None
    columns = [column.to_pylist() for column in table.columns]
    rows = [
        (f"{path}, row {number}", [_text(value) for value in values])
        for number, values in enumerate(zip(*columns, strict=True), 1)
    ]
    return list(table.column_names), rows


def _text(value):
    if isinstance(value, list | tuple):
        return SEPARATOR.join(map(str, value))
    return "" if value is None else str(value)


def _part(text, place):
    for part, names in SPLITS.items():
        if text.lower() in names:
            return part
    known = ", ".join(name for names in SPLITS.values() for name in names)
    raise ValueError(f"{place} has the split {text!r}; it must be one of {known}.")


# How pandas and others write missing values.
_MISSING = {"", "nan", "na", "n/a", "null", "none"}


def guess_labels(rows: list[Row]) -> str:
    """Return the kind of the labels of a table: one of `KINDS`.

    Several columns of zeros and ones, and labels with semicolons, are multi-label;
    numbers with a decimal point or an exponent are values to predict. Missing values are
    left out: the kind that they do not fit refuses them.

    Args:
        rows: the rows.
    """
    texts = {text for row in rows for text in row.labels if text.lower() not in _MISSING}
    numbers = [_number(text) for text in texts]
    if len(rows[0].labels) > 1 and None not in numbers:
        return "multi" if set(numbers) <= {0.0, 1.0} else "regression"
    if any(SEPARATOR in text for text in texts):
        return "multi"
    if None not in numbers and any("." in t or "e" in t.lower() for t in texts):
        return "regression"
    return "single"


def _number(text):
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def table_source(name: str, rest: str, columns: Columns, kind: str) -> Source:
    """Return the `Source` of `table:PATH[:SPLIT]`; see `sources.open_source`."""
    path, part = table_path(rest)
    rows = read_rows(path, columns)
    names, labels = LABELS[kind](rows, columns)
    chosen = [i for i, row in enumerate(rows) if part in ("", row.split)]
    if not chosen:
        found = ", ".join(sorted({row.split for row in rows} - {""})) or "none"
        raise ValueError(f"{name!r}: {path} has no rows of the split {part!r}: {found}.")
    others = collections.defaultdict(list)
    kept, suffixes = [], image_suffixes()
    for i in chosen:
        if rows[i].path.lower().endswith(suffixes):
            kept.append(i)
        else:
            others[pathlib.PurePath(rows[i].path).suffix.lower()].append(rows[i].path)
    if not kept:
        raise ValueError(f"{name!r} has no images, only {counted(others)}.")
    files = [os.path.join(path.parent, os.path.expanduser(rows[i].path)) for i in kept]
    _check_repeats(path, rows)
    _check_files(path, [rows[i] for i in kept], files)
    identifiers = [os.fsencode(rows[i].path) for i in kept]
    own = labels[kept]
    table = {
        "image": np.array([os.fsencode(file) for file in files], object),
        "label": own,
        "id": np.array(identifiers, object),
    }
    return Source(
        name,
        num_examples=len(kept),
        num_classes=len(names),
        class_names=names,
        image_shape=None,
        channels=3,
        references=lambda: tensorflow().data.Dataset.from_tensor_slices(table),
        reference_bytes=500,
        read=lambda file: tensorflow().io.read_file(file),
        encoded=True,
        class_counts=counts(own, len(names), kind),
        table=table,
        listing=lambda: [
            (os.fsdecode(identifier).encode(errors="replace").decode(), label, content)
            for identifier, label, content in zip(
                identifiers, own.tolist(), contents(files), strict=True
            )
        ],
        lost=lambda: missing([path, *files]),
        left_out=counted(others),
        labels=kind,
    )


def table_path(rest: str) -> tuple[pathlib.Path, str]:
    """Return the path and the split in the name of a table.

    Args:
        rest: `PATH` or `PATH:SPLIT`.

    Returns:
        The path, and the split or an empty string.
    """
    before, colon, part = rest.rpartition(":")
    if colon and part in SPLITS and not os.path.exists(rest):
        return pathlib.Path(before).expanduser(), part
    return pathlib.Path(rest).expanduser(), ""


def counts(labels: np.ndarray, classes: int, kind: str) -> tuple[int, ...] | None:
    """Return the number of images of each class, or None for regression.

    Args:
        labels: ints `(n,)`, or zeros and ones `(n, classes)`.
        classes: number of classes.
        kind: one of `KINDS`.
    """
    if kind == "regression":
        return None
    if kind == "multi":
        return tuple(labels.sum(axis=0).astype(int).tolist())
    return tuple(np.bincount(labels, minlength=classes).tolist())


def _check_files(path, rows, files):
    """Raise an error that lists files that are missing."""
    absent = [row for row, file in zip(rows, files, strict=True) if not _exists(file)]
    if absent:
        listed = ", ".join(row.path for row in absent[:_LISTED])
        raise FileNotFoundError(
            f"{len(absent):,} of {len(files):,} images of {path} are missing ({listed}"
            f"{', ...' * (len(absent) > _LISTED)}). Paths are relative to the table's "
            f"folder: {files[rows.index(absent[0])]} does not exist."
        )


def _check_repeats(path, rows):
    """Raise an error if two rows, of the same or of two splits, have the same image."""
    seen: dict[str, Row] = {}
    for row in rows:
        file = os.path.join(path.parent, os.path.expanduser(row.path))
        first = seen.setdefault(os.path.normpath(file), row)
        if first is not row:
            raise ValueError(
                f"{row.place} lists {row.path} again, after {first.place}: keep one row "
                "for each image. Several labels of one image are separated by "
                f"{SEPARATOR!r}."
            )


def _exists(file):
    return os.path.isfile(file)


def _single(rows, columns):
    """Return the sorted class names, and the labels as ints."""
    if len(columns.labels) > 1:
        raise ValueError(
            f"data.labels='single' takes one column of labels; received "
            f"{', '.join(columns.labels)}. Use 'multi' or 'regression'."
        )
    for row in rows:
        if not row.labels[0]:
            raise ValueError(f"{row.place} has no label.")
    names = sorted({row.labels[0] for row in rows}, key=_in_order)
    index = {name: i for i, name in enumerate(names)}
    return tuple(names), np.array([index[row.labels[0]] for row in rows], "int64")


def _in_order(name):
    """Return a sort key that orders numbers by their values, before all other names."""
    number = _number(name)
    return (number is None, number or 0.0, name)


def _multi(rows, columns):
    """Return the class names, and the labels as zeros and ones."""
    if len(columns.labels) > 1:
        for row in rows:
            if not {_number(text) for text in row.labels} <= {0.0, 1.0}:
                raise ValueError(
                    f"{row.place} must have 0 or 1 in the columns "
                    f"{', '.join(columns.labels)}; received {', '.join(row.labels)}."
                )
        values = [[float(text) for text in row.labels] for row in rows]
        return columns.labels, np.array(values, "float32")
    own = [
        {label.strip() for label in row.labels[0].split(SEPARATOR)} - {""} for row in rows
    ]
    names = sorted(set().union(*own), key=_in_order)
    values = [[float(name in labels) for name in names] for labels in own]
    return tuple(names), np.array(values, "float32").reshape(len(rows), len(names))


def _regression(rows, columns):
    """Return the names of the columns, and their values."""
    for row in rows:
        for name, text in zip(columns.labels, row.labels, strict=True):
            if _number(text) is None:
                raise ValueError(
                    f"{row.place} must have a finite number in the column {name!r}; "
                    f"received {text!r}."
                )
    values = [[float(text) for text in row.labels] for row in rows]
    return columns.labels, np.array(values, "float32")


LABELS = {"single": _single, "multi": _multi, "regression": _regression}
