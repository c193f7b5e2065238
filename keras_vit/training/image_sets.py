"""Data sets of a config."""

import re
from collections.abc import Iterable, Sequence

from keras_vit.data.source import Source
from keras_vit.data.sources import open_source
from keras_vit.data.splits import is_split, split_off, tfds_slices
from keras_vit.data.subsets import subset
from keras_vit.training import config as configs

PARTS = ("train", "validation", "test")


def open_parts(data: configs.Data, parts: Sequence[str] = PARTS) -> dict[str, Source]:
    """Open the data sets of a config, and split off the validation set if requested.

    Args:
        data: the names of the data sets.
        parts: the parts to open, of `train`, `validation` and `test`.

    Returns:
        Dict from the name of each part to its source, without parts that are None in the
        config.

    Raises:
        ValueError: a name is invalid, or the data set cannot be split.
        FileNotFoundError: a data set does not exist.
    """
    names = {part: getattr(data, part) for part in parts}
    _check_default(data, names)
    split = is_split(data.validation) and not {"train", "validation"}.isdisjoint(names)
    if split and not data.train:
        raise ValueError(
            f"data.validation={data.validation!r} is a part of data.train, which is not "
            "set: add --set data.train=folder:PATH."
        )
    if split:
        names |= {"train": data.train, "validation": None}
    sources = {
        part: open_source(
            name,
            data.data_dir,
            data.download,
            data.exif,
            data.labels,
            data.path_column,
            data.label_column,
        )
        for part, name in names.items()
        if name is not None
    }
    for part, source in sources.items():
        if source.labels != data.labels:
            raise ValueError(
                f"The images of data.{part}={names[part]!r} have labels of the kind "
                f"{source.labels!r}, and data.labels is {data.labels!r}: --set "
                f"data.labels={source.labels}."
            )
    if split:
        rest, taken = split_off(sources["train"], data.validation)
        sources |= {"train": rest, "validation": taken}
    if "train" in sources and "train" in parts:
        sources["train"] = subset(sources["train"], data.fraction)
    return {part: sources[part] for part in parts if part in sources}


def check_single(data: configs.Data) -> None:
    """Raise a `ValueError` unless the images of a config have one class each.

    Args:
        data: the settings of the data sets.
    """
    if data.labels != "single":
        raise ValueError(
            f"This command needs images with one class each; data.labels is "
            f"{data.labels!r}. Train and measure such models with keras-vit finetune and "
            "keras-vit evaluate."
        )


def _check_default(data, names):
    """Raise if the training set was changed and the validation set was forgotten."""
    default = configs.Data().validation
    if not {"train", "validation"} <= set(names) or data.validation != default:
        return
    if data.train and not data.train.startswith(("digits", "split")):
        raise ValueError(
            f"data.train={data.train!r} is set, and data.validation is still the "
            f"default, {default!r}: set data.validation to another set, or to "
            "'split:0.1' to take a tenth of the images of every class out of data.train "
            "for it."
        )


def check_data(
    config: configs.Config, settings: Iterable[str], parts: Sequence[str] = PARTS
) -> None:
    """Check that settings that change `data.train` also change the other data sets.

    Args:
        config: the config after `config.override`.
        settings: the settings that were passed to `override`.
        parts: the parts that are used.

    Raises:
        ValueError: `data.train` is set, but `data.validation` or `data.test` still has
            the value of the config and belongs to another data set.
    """
    data = config.data
    changed = {setting.partition("=")[0].strip() for setting in settings}
    if "data.train" not in changed:
        return
    for part in parts:
        name = getattr(data, part)
        if part == "train" or not name or f"data.{part}" in changed or is_split(name):
            continue
        if _kind(name) != _kind(data.train):
            remedy = " or to None"
            if part == "validation":
                remedy = _split_remedy(data.train)
            raise ValueError(
                f"data.train={data.train!r} is set, and data.{part} is still the "
                f"config's {name!r}: set data.{part}=... too{remedy}."
            )


def _split_remedy(train):
    """Return the end of an error message that explains how to split `train`."""
    if train.startswith(("folder:", "table:", "datasets:")):
        return (
            ", or data.validation=split:0.1 to take a tenth of the images of every class "
            "out of data.train for it"
        )
    slices = tfds_slices(train, 0.1)
    if slices is None:
        return ""
    return ", for instance 'data.train={}' and 'data.validation={}'".format(*slices)


def _kind(name):
    """Return the part of a data source's name that identifies it, without the split."""
    kind, _, rest = name.partition(":")
    return (kind, re.split("[/:]", rest)[0]) if kind == "tfds" else kind
