"""Data sources of labeled images: digits, TensorFlow Datasets and folders."""

import collections
import concurrent.futures
import dataclasses
import difflib
import logging
import os
import pathlib
import re
import stat
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from keras_vit.data.host import tensorflow

logger = logging.getLogger(__name__)

# Names of folders that hold the splits of a data set instead of its classes.
_TRAINING = ("train", "training")
_HELD_OUT = ("val", "valid", "validation", "dev", "eval", "test", "testing")

# Largest total size of a set of files that is recorded with checksums, in bytes.
_CHECKSUM_BYTES = 2**26

# File formats that `tf.io.decode_image` reads.
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")


@dataclasses.dataclass(frozen=True)
class Source:
    """Labeled images in a fixed order, not yet decoded. `open_source` returns one.

    Args:
        name: name by which the source was opened.
        num_examples: int, the number of images.
        num_classes: int; labels are 0 to `num_classes - 1`.
        class_names: the names of the classes in the order of the labels.
        image_shape: `(height, width, channels)`, or None if images differ in size.
        channels: int, 1 or 3, the number of channels that images are decoded to.
        references: function of no arguments that returns a finite `tf.data.Dataset` of
            all examples, always in the same order and as small as possible: dicts with
            `id`, a unique string, `label`, int64, and `image`, the argument of `read`.
        reference_bytes: int, approximate memory of a reference.
        read: function used in `tf.data.Dataset.map`, from a reference's `image` to an
            encoded image (a string tensor) or to pixels 0 to 255.
        encoded: bool, whether `read` returns the bytes of image files.
        exif: bool, whether to apply the EXIF orientation of images.
        listing: function of no arguments that lists the contents of the source in order:
            tuples of a unique name (an example's id, or a file with many examples), the
            label (0 for such a file) and a text that changes with the contents.
            None if unknown.
        lost: function of no arguments that returns a sentence naming a missing file or
            folder of the source, or None.
        damaged: function of no arguments that reads all files with many examples and
            returns a sentence naming a damaged one, or None.
        class_counts: the number of images of each class in the order of the labels, or
            None if counting would require reading the images.
        table: the references as arrays with one row per example; None if they are not
            in memory.

    Example:

    >>> from keras_vit.data import open_source
    >>> source = open_source("digits:test")
    >>> source.num_examples, source.num_classes, source.image_shape
    (360, 10, (8, 8, 1))
    """

    name: str
    num_examples: int
    num_classes: int
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int] | None
    channels: int
    references: Callable[[], Any]
    reference_bytes: int
    read: Callable[[Any], Any]
    encoded: bool = False
    exif: bool = True
    listing: Callable[[], list[tuple[str, int, str]]] | None = None
    lost: Callable[[], str | None] = lambda: None
    damaged: Callable[[], str | None] = lambda: None
    class_counts: tuple[int, ...] | None = None
    table: dict[str, np.ndarray] | None = dataclasses.field(
        default=None, repr=False, compare=False
    )

    def examples(self):
        """Return all examples once, in an order that never changes, not decoded.

        Returns:
            A finite `tf.data.Dataset` of dicts: `image`, the bytes of an image file
            (a string) or an array `(h, w, c)` of pixel values 0 to 255; `label`, int64;
            `id`, a string: a path relative to the folder, TFDS's `tfds_id`, or a number.

        Example:

        >>> from keras_vit.data import open_source
        >>> for example in open_source("digits:test").examples().take(1):
        ...     print(example["id"].numpy(), example["image"].shape)
        b'digits-1496' (8, 8, 1)
        """
        tf = tensorflow()

        def read(reference):
            return {**reference, "image": self.read(reference["image"])}

        return self.references().map(read, tf.data.AUTOTUNE, deterministic=True)

    def with_channels(self, channels: int | None) -> "Source":
        """Return the source with image files decoded to a model's number of channels.

        Args:
            channels: int; None, and numbers other than 1 and 3, to which files cannot be
                decoded, change nothing.

        Returns:
            A `Source`; the same one if its images are arrays.

        Example:

        >>> from keras_vit.data import open_source
        >>> open_source("digits:test").with_channels(3).channels
        1
        """
        if not self.encoded or channels not in (1, 3):
            return self
        shape = self.image_shape and (*self.image_shape[:2], channels)
        return dataclasses.replace(self, channels=channels, image_shape=shape)


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
        source = _tfds(name, rest, data_dir, download)
        return dataclasses.replace(source, exif=exif)
    if kind == "folder" and rest:
        source = _folder(name, pathlib.Path(rest).expanduser())
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

    Example:

    >>> from keras_vit.data.sources import digits
    >>> {part: len(labels) for part, (_, labels, _) in digits().items()}
    {'train': 1257, 'validation': 180, 'test': 360}
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
        raise ValueError(_unknown("split of digits", split, parts))
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
        class_counts=_class_counts(labels, 10),
        table=reference,
        listing=lambda: [
            (name, int(label), f"{zlib.crc32(image.tobytes()):08x}")
            for name, label, image in zip(
                reference["id"], reference["label"], images, strict=True
            )
        ],
    )


def _folder(name, path):
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
                f"{', '.join(IMAGE_SUFFIXES)}){held}. Add some, or remove the folder."
            )
        files += found
        labels += [label] * len(found)
        for suffix, names in rest.items():
            others[suffix] += names
    if others:
        logger.warning("%s: left out %s", name, counted(others))
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
        class_counts=_class_counts(labels, len(classes)),
        table=reference,
        listing=lambda: [
            (os.fsdecode(identifier).encode(errors="replace").decode(), label, content)
            for identifier, label, content in zip(
                identifiers, labels, contents(files), strict=True
            )
        ],
        lost=lambda: _gone([path, *(path / class_name for class_name in classes)]),
    )


def _class_counts(labels, classes):
    return tuple(np.bincount(labels, minlength=classes).tolist())


def _class_folders(name, path):
    """Return the sorted names of the class folders; raise if they are not classes."""
    classes = sorted(
        entry.name
        for entry in path.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if not classes:
        raise ValueError(
            f"{name!r}: {path} has no folders; it needs one for each class, with its "
            "images in it."
        )
    training = [n for n in classes if n.lower() in _TRAINING]
    held_out = [n for n in classes if n.lower() in _HELD_OUT]
    nested = any(e.is_dir() for n in training + held_out for e in (path / n).iterdir())
    if len(training + held_out) == len(classes) or (training and held_out and nested):
        parts = {"train": training, "validation": held_out[-1:], "test": held_out[:-1]}
        settings = [f"data.{k}=folder:{path / n}" for k, v in parts.items() for n in v]
        raise ValueError(
            f"{name!r}: {path} holds the parts of a set ({', '.join(classes)}) and not "
            f"its classes. Open a part: {', '.join(settings)}."
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

    Example:

    >>> from keras_vit.data.sources import counted
    >>> counted({".tiff": ["a.tiff", "b.tiff"]})
    '2 .tiff files (a.tiff, ...)'
    """
    texts = []
    for suffix, names in sorted(others.items(), key=lambda item: -len(item[1])):
        what = f"{suffix} file" if suffix else "file without an ending"
        if len(names) > 1:
            what = what.replace("file", "files", 1)
        texts.append(f"{len(names)} {what} ({names[0]}{', ...' * (len(names) > 1)})")
    return ", ".join(texts)


def image_files(folder: str | os.PathLike) -> tuple[list[str], dict[str, list[str]]]:
    """List the image files below a folder, at any depth, like `folder:` sources do.

    Links are followed. Names that start with a dot are ignored, as are files that do not
    end in one of `IMAGE_SUFFIXES`.

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
    others: dict[str, list[str]] = collections.defaultdict(list)
    for file in sorted(_files_below(folder)):
        if file.lower().endswith(IMAGE_SUFFIXES):
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


def _tfds(name, rest, data_dir, download):
    tensorflow()  # Hide the GPUs if necessary, before TFDS imports TensorFlow.
    import tensorflow_datasets as tfds

    # The name may be followed by a version, and a slice may contain a colon.
    match = re.fullmatch(r"([^:]+(?::[\d*]+\.[\d*]+\.[\d*]+)?)(?::(.+))?", rest)
    if match is None:
        raise ValueError(f"{name!r} is not of the form 'tfds:NAME[:SPLIT]'.")
    dataset, split = match[1], match[2] or "train"
    builder = _builder(tfds, name, dataset, data_dir, download)
    info = builder.info
    features = dict(info.features.items())
    image, label = features.get("image"), features.get("label")
    if not isinstance(image, tfds.features.Image) or not isinstance(
        label, tfds.features.ClassLabel
    ):
        raise ValueError(
            f"{name!r} is not an image classification set: it needs the features "
            f"'image' (Image) and 'label' (ClassLabel); it has {info.features}."
        )
    try:
        num_examples = info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{_unknown(f'split of {dataset}', split, info.splits)} Or a slice of one, "
            "such as 'train[:90%]'."
        ) from error
    if num_examples == 0:
        raise ValueError(f"{name!r} has no examples.")
    shape = image.shape
    # Each part is a range of examples in a TFRecord file.
    parts = info.splits[split].file_instructions
    files = [str(part.filename) for part in parts]
    if gone := _gone(files):
        raise FileNotFoundError(f"{name!r}: {gone}")

    def listing():
        return [
            (
                f"{info.full_name}/{os.path.basename(file)}[{part.skip}:{part.take}]",
                0,
                f"{part.examples_in_shard} {content}",
            )
            for part, file, content in zip(parts, files, contents(files), strict=True)
        ]

    def references():
        config = tfds.ReadConfig(
            add_tfds_id=True,
            try_autocache=False,
            # The reader of the batches detects a lost shard and names it in its error.
            assert_cardinality=False,
        )
        data = builder.as_dataset(
            split=split,
            shuffle_files=False,
            decoders=tfds.decode.PartialDecoding(
                {"image": True, "label": True},
                decoders={"image": tfds.decode.SkipDecoding()},
            ),
            read_config=config,
        )
        return data.map(
            lambda example: {
                "image": example["image"],
                "label": example["label"],
                "id": example["tfds_id"],
            }
        )

    return Source(
        name,
        num_examples=num_examples,
        num_classes=label.num_classes,
        class_names=tuple(label.names),
        image_shape=None if None in shape else tuple(shape),
        channels=1 if shape[-1] == 1 else 3,
        references=references,
        reference_bytes=max(1, info.dataset_size // info.splits.total_num_examples),
        read=lambda image: image,
        encoded=True,
        listing=listing,
        lost=lambda: _gone(files),
        damaged=lambda: _damaged(parts),
    )


def _gone(paths):
    """Return a sentence that names the first missing path, or None."""
    # TensorFlow's file API supports gs:// and the other file systems of TFDS.
    exists = tensorflow().io.gfile.exists
    for path in map(os.fspath, paths):
        if not exists(path):
            return f"{path} is missing. Restore it, or mount the disk that holds it."
    return None


def _damaged(parts):
    """Return a sentence that names the first damaged TFRecord file, or None."""
    tf = tensorflow()
    for part in parts:
        found = 0
        try:
            for _ in tf.data.TFRecordDataset(str(part.filename)):
                found += 1
        except tf.errors.OpError as error:
            return (
                f"{part.filename} is damaged after {found} of {part.examples_in_shard} "
                f"examples ({error.message.splitlines()[0]}). Restore it."
            )
        if found < part.examples_in_shard:
            return (
                f"{part.filename} has {found} of {part.examples_in_shard} examples. "
                "Restore it."
            )
    return None


def contents(files: Sequence[str]) -> list[str]:
    """Return a short text for each file that changes with the file's contents.

    Args:
        files: paths.

    Returns:
        The size of each file, followed by a checksum if all files together are small, or
        `"missing"` for a file that does not exist. In large sets, changes that keep a
        file's size are not detected.

    Example:

    >>> from keras_vit.data.sources import contents
    >>> contents(["/no/such/file"])
    ['missing']
    """
    # Use threads, because every call waits for the server on network file systems.
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        sizes = list(pool.map(_size, files, chunksize=64))
        if sum(size or 0 for size in sizes) > _CHECKSUM_BYTES:
            return ["missing" if size is None else str(size) for size in sizes]
        return list(pool.map(_checksum, files))


def _size(file):
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _checksum(file):
    size = _size(file)
    if size is None:
        return "missing"
    try:
        with open(file, "rb") as opened:
            return f"{size} {zlib.crc32(opened.read()):08x}"
    except OSError:
        return f"{size} unreadable"


def _builder(tfds, name, dataset, data_dir, download):
    where = os.fspath(data_dir or tfds.core.constants.DATA_DIR)
    try:
        builder = tfds.builder(dataset, data_dir=data_dir)
    except AssertionError as error:  # TFDS raises this for an unknown version.
        raise FileNotFoundError(f"{name!r}: {error}") from error
    except tfds.core.DatasetNotFoundError as error:
        base = re.split("[/:]", dataset)[0]
        root = pathlib.Path(where)
        found = {p.parent.relative_to(root) for p in root.glob("*/*/dataset_info.json")}
        found |= {
            p.parent.relative_to(root) for p in root.glob("*/*/*/dataset_info.json")
        }
        prepared = sorted(map(str, found))
        names = {p.parts[0] for p in found} | set(tfds.list_builders())
        message = _unknown("TFDS set", base, names - {base})
        raise FileNotFoundError(
            f"{name!r}: {message} Prepared in {where}: "
            f"{', '.join(prepared) or 'nothing'}. Check the name and --data-dir."
        ) from error
    if download:
        builder.download_and_prepare()
    if not builder.info.splits:
        raise FileNotFoundError(
            f"{name!r} is known to TFDS but not prepared in {where}. Check --data-dir; "
            "or download it (download=True), or prepare it with `tfds build "
            f"{dataset} --data_dir {where}`."
        )
    return builder


def _unknown(what, name, names):
    names = list(names)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    listed = near or (names if len(names) < 10 else [])
    choices = f" Nearest: {', '.join(map(repr, listed))}." if near else ""
    if not near and listed:
        choices = f" There are {', '.join(map(repr, listed))}."
    return f"No {what} is called {name!r}.{choices}"
