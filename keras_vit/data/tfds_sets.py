"""Image classification sets of TensorFlow Datasets."""

import difflib
import logging
import os
import pathlib
import re

from keras_vit.data.files import contents, missing
from keras_vit.data.host import tensorflow
from keras_vit.data.source import Source


def tfds_source(name, rest, data_dir, download):
    """Return the `Source` of `tfds:REST`; see `sources.open_source`."""
    tensorflow()  # Hide the GPUs if necessary, before TFDS imports TensorFlow.
    import tensorflow_datasets as tfds

    for library in ("absl", "tensorflow"):
        logging.getLogger(library).addFilter(_concerns_users)
    dataset, split = _parsed(name, rest)
    builder = _builder(tfds, name, dataset, data_dir, download)
    split = split or "train"
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
            f"{unknown(f'split of {dataset}', split, info.splits)} Or a slice of one, "
            "such as 'train[:90%]'."
        ) from error
    if num_examples == 0:
        raise ValueError(f"{name!r} has no examples.")
    # Each part is a range of examples in a TFRecord file.
    parts = info.splits[split].file_instructions
    files = [str(part.filename) for part in parts]
    if gone := missing(files):
        raise FileNotFoundError(f"{name!r}: {gone}")
    if _too_large(info, split) and (damaged := _damaged(parts)):
        raise ValueError(f"{name!r}: {damaged}")
    shape = image.shape
    return Source(
        name,
        num_examples=num_examples,
        num_classes=label.num_classes,
        class_names=tuple(label.names),
        image_shape=None if None in shape else tuple(shape),
        channels=1 if shape[-1] == 1 else 3,
        references=lambda: _references(builder, split),
        reference_bytes=max(1, info.dataset_size // info.splits.total_num_examples),
        read=lambda image: image,
        encoded=True,
        listing=lambda: [
            (
                f"{info.full_name}/{os.path.basename(file)}[{part.skip}:{part.take}]",
                0,
                f"{part.examples_in_shard} {content}",
            )
            for part, file, content in zip(parts, files, contents(files), strict=True)
        ],
        lost=lambda: missing(files),
        damaged=lambda: _damaged(parts),
    )


def split_names(
    name: str, data_dir: str | os.PathLike | None, download: bool
) -> tuple[str, list[str]]:
    """Return the name of a set without its split, and the names of its splits.

    Args:
        name: name of the set, `"tfds:NAME[:SPLIT]"`.
        data_dir: directory of TensorFlow Datasets; None for its default.
        download: whether to download a set that is not there.
    """
    tensorflow()
    import tensorflow_datasets as tfds

    dataset, _ = _parsed(name, name.removeprefix("tfds:"))
    builder = _builder(tfds, name, dataset, data_dir, download)
    return f"tfds:{dataset}", list(builder.info.splits)


def _concerns_users(record):
    """Return False for warnings about functions that only TFDS uses."""
    message = record.getMessage()
    return not any(name in message for name in ("FeatureConnector.dtype", "CounterV2"))


def _parsed(name, rest):
    # The name may be followed by a version, and a slice may contain a colon.
    match = re.fullmatch(r"([^:]+(?::[\d*]+\.[\d*]+\.[\d*]+)?)(?::(.+))?", rest)
    if match is None:
        raise ValueError(f"{name!r} is not of the form 'tfds:NAME[:SPLIT]'.")
    return match[1], match[2]


def _references(builder, split):
    """Return the examples of a split in the order of its files, not decoded."""
    import tensorflow_datasets as tfds

    data = builder.as_dataset(
        split=split,
        shuffle_files=False,
        decoders=tfds.decode.PartialDecoding(
            {"image": True, "label": True},
            decoders={"image": tfds.decode.SkipDecoding()},
        ),
        read_config=tfds.ReadConfig(
            add_tfds_id=True,
            try_autocache=False,
            # The reader of the batches detects a lost shard and names it in its error.
            assert_cardinality=False,
        ),
    )
    return data.map(
        lambda example: {
            "image": example["image"],
            "label": example["label"],
            "id": example["tfds_id"],
        }
    )


def _too_large(info, split):
    """Return True if files of a split are larger than its metadata states."""
    stat = tensorflow().io.gfile.stat
    for name in set(re.findall(r"\w+", split)) & set(info.splits):
        stated = info.splits[name]
        # A TFRecord has a header and a checksum of 16 bytes in total.
        expected = stated.num_bytes + 16 * stated.num_examples
        size = sum(stat(file).length for file in stated.filepaths)
        if stated.num_bytes and size > expected:  # 0 bytes stand for an unknown number.
            return True
    return False


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
        if found != part.examples_in_shard:
            return (
                f"{part.filename} has {found} of {part.examples_in_shard} examples. "
                "Restore it."
            )
    return None


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
        message = unknown("TFDS set", base, names - {base})
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


def unknown(what, name, names):
    names = list(names)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    listed = near or (names if len(names) < 10 else [])
    choices = f" Nearest: {', '.join(map(repr, listed))}." if near else ""
    if not near and listed:
        choices = f" There are {', '.join(map(repr, listed))}."
    return f"No {what} is called {name!r}.{choices}"
