"""Data sets of a config."""

from collections.abc import Sequence

from keras_vit.data.source import Source
from keras_vit.data.sources import open_source
from keras_vit.data.splits import is_split, split_off
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
    if split:
        rest, taken = split_off(sources["train"], data.validation)
        sources |= {"train": rest, "validation": taken}
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
