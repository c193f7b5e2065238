"""Data sources of labeled images: digits, TensorFlow Datasets and folders."""

import dataclasses
import os
import pathlib
import zlib
from typing import Any

import numpy as np

from keras_vit.data.folders import folder_source
from keras_vit.data.host import tensorflow
from keras_vit.data.hugging_face_sets import datasets_source
from keras_vit.data.source import Source
from keras_vit.data.tables import KINDS, Columns, split_names, table_source
from keras_vit.data.tfds_sets import tfds_source, unknown


def open_source(
    name: str,
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
    exif: bool = True,
    labels: str = "single",
    path_column: str = "path",
    label_column: str = "label",
) -> Source:
    """Open a set of labeled images without reading any image.

    Args:
        name: one of

            - `"digits[:SPLIT]"`: scikit-learn's handwritten digits, 8x8, grayscale; SPLIT
              is `train` (1,257 images, the default), `validation` (180) or `test` (360).
            - `"tfds:NAME[:SPLIT]"`: any image classification set of TensorFlow Datasets
              with the features `image` and `label`. NAME may include a configuration and
              a version (`NAME/CONFIG:1.0.0`), SPLIT may be a slice (`train[:90%]`);
              the default is `train`.
            - `"folder:PATH"`: a folder with one subfolder per class; labels follow the
              sorted names of the subfolders. All files in a subfolder, at any depth, that
              end in .jpg, .jpeg, .png, .bmp, .gif or .webp are images, and those in .tif,
              .tiff, .avif, .heic, .heif or .npy if the packages that read them are
              installed. Links are followed; names that start with a dot are ignored.
            - `"table:PATH[:SPLIT]"`: a CSV or Parquet file with one row for each image.
              Paths of images are relative to the table. SPLIT is `train`, `validation`
              or `test`, and selects rows by the column `split`.
            - `"datasets:PATH[:SPLIT]"`: a directory that `save_to_disk` of the Hugging
              Face library `datasets` wrote, or one with Parquet files of images. The
              library must be installed.
        data_dir: directory of TensorFlow Datasets; None for its default.
        download: whether to download and prepare a TFDS set that is not there.
        exif: whether to apply the EXIF orientation of images, except for TIFF, AVIF and
            HEIC, which are always upright. Use False for a model that was trained without
            it.
        labels: kind of the labels of a table: `"single"`, one class per image;
            `"multi"`, several classes, separated by semicolons, or a column of zeros and
            ones for each class; `"regression"`, numbers.
        path_column: name of the column of a table with the paths.
        label_column: name of the column with the labels of a table or of a Hugging Face
            set, or several names of columns of a table, separated by commas.

    Returns:
        A `Source`.

    Raises:
        ValueError: the kind of source or the split is unknown; the set has no labeled
            images; the folder has no classes, or a class has no images.
        FileNotFoundError: the folder or TFDS set does not exist, or the TFDS set is not
            prepared.

    Example:

    >>> from keras_vit.data import open_source
    >>> open_source("digits:train").num_examples
    1257
    """
    if labels not in KINDS:
        raise ValueError(
            f"data.labels must be one of {', '.join(map(repr, KINDS))}; received "
            f"{labels!r}."
        )
    kind, _, rest = name.partition(":")
    if kind == "split":
        raise ValueError(
            f"{name!r} is a part of data.train, and only data.validation can be one."
        )
    if kind == "dataset":
        raise ValueError(
            f"{name!r} was passed from Python to keras_vit.training.finetune and cannot "
            "be opened by name: set data.test to a folder or a table."
        )
    if kind == "datasets" and rest:
        source = datasets_source(name, rest, label_column)
        return dataclasses.replace(source, exif=exif)
    if labels != "single" and kind != "table":
        raise ValueError(
            f"data.labels={labels!r} is for tables; {name!r} has one class per image."
        )
    if kind == "digits":
        return _digits(name, rest or "train")
    if kind == "tfds" and rest:
        source = tfds_source(name, rest, data_dir, download)
        return dataclasses.replace(source, exif=exif)
    if kind == "table" and rest:
        columns = Columns(path_column, split_names(label_column))
        source = table_source(name, rest, columns, labels)
        return dataclasses.replace(source, exif=exif)
    if kind == "folder" and rest:
        source = folder_source(name, pathlib.Path(rest).expanduser())
        return dataclasses.replace(source, exif=exif)
    raise ValueError(
        f"Unknown source {name!r}: use 'digits[:SPLIT]', 'tfds:NAME[:SPLIT]', "
        "'folder:PATH', 'table:PATH[:SPLIT]' or 'datasets:PATH[:SPLIT]'."
    )


def digits(seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return scikit-learn's copy of the UCI handwritten digits in three splits.

    Args:
        seed: int, seed of the split; configs use 0.

    Returns:
        Dict with `train`, `validation` and `test`: images `(n, 8, 8, 1)`, float32,
        0 to 255; labels `(n,)`, int32; and indices `(n,)` into scikit-learn's order. The
        split (1,257, 180, 360) is stratified.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = (data.images * (255 / 16)).astype("float32")[..., None]
    labels = data.target.astype("int32")
    rest, test = train_test_split(
        np.arange(len(labels)), test_size=360, random_state=seed, stratify=labels
    )
    train, validation = train_test_split(
        rest, test_size=180, random_state=seed, stratify=labels[rest]
    )
    parts = {"train": train, "validation": validation, "test": test}
    return {part: (images[index], labels[index], index) for part, index in parts.items()}


def _digits(name, split):
    parts = digits()
    if split not in parts:
        raise ValueError(unknown("split of digits", split, parts))
    images, labels, index = parts[split]
    reference: dict[str, Any] = {
        "image": images,
        "label": labels.astype("int64"),
        "id": np.array([f"digits-{i}" for i in index]),
    }
    return Source(
        name,
        num_examples=len(labels),
        num_classes=10,
        class_names=tuple("0123456789"),
        image_shape=images.shape[1:],
        channels=1,
        references=lambda: tensorflow().data.Dataset.from_tensor_slices(reference),
        reference_bytes=images[0].nbytes,
        read=lambda image: image,
        class_counts=tuple(np.bincount(labels, minlength=10).tolist()),
        table=reference,
        listing=lambda: [
            (name, int(label), f"{zlib.crc32(image.tobytes()):08x}")
            for name, label, image in zip(
                reference["id"], reference["label"], images, strict=True
            )
        ],
    )
