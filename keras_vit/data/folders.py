"""Folders with one subfolder of images per class."""

import collections
import logging
import os
import pathlib
import unicodedata
from collections.abc import Iterator

import numpy as np

from keras_vit.data import other_formats
from keras_vit.data.files import contents, missing
from keras_vit.data.host import tensorflow
from keras_vit.data.source import Source

logger = logging.getLogger(__name__)

# Names of folders that hold the splits of a data set instead of its classes.
SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test", "testing"),
}

# File formats that `tf.io.decode_image` reads.
_PLAIN_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")


def image_suffixes() -> tuple[str, ...]:
    """Return the suffixes of image files that can be read here, in lower case."""
    return (*_PLAIN_SUFFIXES, *other_formats.suffixes())


def folder_source(name, path):
    if not path.is_dir():
        raise FileNotFoundError(f"{name!r}: {path} is not a folder.")
    classes = _class_folders(name, path)
    files, labels = [], []
    others: dict[str, list[str]] = collections.defaultdict(list)
    for label, class_name in enumerate(classes):
        found, rest = image_files(path / class_name)
        if not found:
            held = f"; it holds {counted(rest)}" if rest else ""
            raise ValueError(
                f"{name!r}: {path / class_name} has no images (files that end in "
                f"{', '.join(image_suffixes())}){held}. Add some, or remove the folder."
            )
        files += found
        labels += [label] * len(found)
        for suffix, names in rest.items():
            others[suffix] += names
    left_out = counted(others)
    if left_out:
        logger.warning("%s: left out %s", name, left_out)
    if outside := _outside(path):
        left_out += f"{', ' * bool(left_out)}{counted(outside)} in no class folder"
    identifiers = [os.fsencode(os.path.relpath(file, path)) for file in files]
    reference = {
        "image": np.array([os.fsencode(file) for file in files], object),
        "label": np.array(labels, "int64"),
        "id": np.array(identifiers, object),
    }
    return Source(
        name,
        num_examples=len(files),
        num_classes=len(classes),
        class_names=tuple(classes),
        image_shape=None,
        channels=3,
        references=lambda: tensorflow().data.Dataset.from_tensor_slices(reference),
        reference_bytes=500,
        read=lambda file: tensorflow().io.read_file(file),
        encoded=True,
        class_counts=tuple(np.bincount(labels).tolist()),
        table=reference,
        listing=lambda: [
            (os.fsdecode(identifier).encode(errors="replace").decode(), label, content)
            for identifier, label, content in zip(
                identifiers, labels, contents(files), strict=True
            )
        ],
        lost=lambda: missing([path, *(path / class_name for class_name in classes)]),
        left_out=left_out,
    )


def split_folders(path: pathlib.Path) -> dict[str, list[str]]:
    """Return the names of the folders that hold the splits of a data set.

    Args:
        path: a folder.

    Returns:
        Dict from `train`, `validation` and `test` to the names of their folders, which
        may be none or several; an empty dict if the folder holds classes.
    """
    names = _subfolders(path)
    found = {
        part: [name for name in names if name.lower() in known]
        for part, known in SPLITS.items()
    }
    held_out = found["validation"] + found["test"]
    named = found["train"] + held_out
    nested = any(entry.is_dir() for name in named for entry in (path / name).iterdir())
    everything = bool(names) and len(named) == len(names)
    return found if everything or (found["train"] and held_out and nested) else {}


def _subfolders(path):
    return sorted(
        entry.name
        for entry in path.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )


def _outside(path):
    """Return the files that lie beside the class folders, by suffix."""
    found = collections.defaultdict(list)
    for entry in sorted(path.iterdir()):
        if entry.is_file() and not entry.name.startswith("."):
            found[entry.suffix.lower()].append(str(entry))
    return found


def _class_folders(name, path):
    """Return the sorted names of the class folders; raise if they are not classes."""
    classes = _subfolders(path)
    if not classes:
        raise ValueError(
            f"{name!r}: {path} has no folders; it needs one for each class, with its "
            "images in it."
        )
    if splits := split_folders(path):
        settings = [f"data.{k}=folder:{path / n}" for k, v in splits.items() for n in v]
        raise ValueError(
            f"{name!r}: {path} holds the parts of a set ({', '.join(classes)}) and not "
            f"its classes. Open a part: {', '.join(settings)}. Or give the whole folder "
            f"to a command that trains: --data {path}."
        )
    same = collections.defaultdict(list)
    for class_name in classes:
        same[_plain(class_name)].append(class_name)
    for names in same.values():
        if len(names) > 1:
            raise ValueError(
                f"{name!r}: the class folders {', '.join(map(repr, names))} of {path} "
                "differ only by case, by spaces at their ends or by how accents are "
                "encoded. Merge or rename them."
            )
    return classes


def _plain(name):
    return unicodedata.normalize("NFC", name).casefold().strip()


def counted(others: dict[str, list[str]]) -> str:
    """Return text that counts files by suffix, with one example each.

    Args:
        others: the second result of `image_files`.
    """
    texts = []
    for suffix, names in sorted(others.items(), key=lambda item: -len(item[1])):
        what = f"{suffix} file" if suffix else "file without an ending"
        if len(names) > 1:
            what = what.replace("file", "files", 1)
        more = ", ..." * (len(names) > 1)
        package = other_formats.PACKAGES.get(suffix)
        remedy = f"; pip install '{package}' reads them" if package else ""
        texts.append(f"{len(names)} {what} ({names[0]}{more}{remedy})")
    return ", ".join(texts)


def image_files(folder: str | os.PathLike) -> tuple[list[str], dict[str, list[str]]]:
    """List the image files below a folder, at any depth, like `folder:` sources do.

    Links are followed. Names that start with a dot are ignored, as are files that do not
    end in a suffix of `image_suffixes()`.

    Args:
        folder: path.

    Returns:
        The sorted paths of the images, and a dict from suffix (in lower case, `""` for
        none) to the sorted paths of the other files.

    Example:

    >>> from keras_vit.data import image_files
    >>> images, others = image_files("photographs")  # doctest: +SKIP
    """
    images: list[str] = []
    suffixes = image_suffixes()
    others: dict[str, list[str]] = collections.defaultdict(list)
    for file in sorted(_files_below(folder)):
        if file.lower().endswith(suffixes):
            images.append(file)
        else:
            others[os.path.splitext(file)[1].lower()].append(file)
    return images, others


def _files_below(folder) -> Iterator[str]:
    # A link to a parent folder would cause an endless loop.
    seen = set()
    for directory, names, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(directory)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names[:] = sorted(name for name in names if not name.startswith("."))
        for file in files:
            if not file.startswith("."):
                yield os.path.join(directory, file)
