"""Data sources of labeled images: digits, TensorFlow Datasets and folders."""

import dataclasses
import os
import pathlib
import zlib
from typing import Any

import numpy as np

from keras_vit.data.folders import folder_source
from keras_vit.data.host import tensorflow
from keras_vit.data.source import Source
from keras_vit.data.tfds_sets import tfds_source, unknown


def open_source(
    name: str,
    data_dir: str | os.PathLike | None = None,
    download: bool = False,
    exif: bool = True,
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
              end in .jpg, .jpeg, .png, .bmp, .gif or .webp are images. Links are
              followed; names that start with a dot are ignored.
        data_dir: directory of TensorFlow Datasets; None for its default.
        download: whether to download and prepare a TFDS set that is not there.
        exif: whether to apply the EXIF orientation of images. Use False for a model that
            was trained without it.

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
    kind, _, rest = name.partition(":")
    if kind == "split":
        raise ValueError(
            f"{name!r} is a part of data.train, and only data.validation can be one."
        )
    if kind == "digits":
        return _digits(name, rest or "train")
    if kind == "tfds" and rest:
        source = tfds_source(name, rest, data_dir, download)
        return dataclasses.replace(source, exif=exif)
    if kind == "folder" and rest:
        source = folder_source(name, pathlib.Path(rest).expanduser())
        return dataclasses.replace(source, exif=exif)
    raise ValueError(
        f"Unknown source {name!r}: use 'digits[:SPLIT]', 'tfds:NAME[:SPLIT]' or "
        "'folder:PATH'."
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
