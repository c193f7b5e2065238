"""The sets of images that a config names, opened."""

from collections.abc import Sequence

from keras_vit.training import config as configs
from keras_vit.training.sources import Source, open_source
from keras_vit.training.splits import is_split, split_off

PARTS = ("train", "validation", "test")


def open_parts(data: configs.Data, parts: Sequence[str] = PARTS) -> dict[str, Source]:
    """Open sets of images, and split the validation set off where the config asks for it.

    Args:
        data: names the sets.
        parts: which of `train`, `validation` and `test` to open.

    Returns:
        Dict from the part to its source; without the parts that the config leaves out.

    Raises:
        ValueError: a name is not that of a set, or the set cannot be split.
        FileNotFoundError: a set does not exist.
    """
    names = {part: getattr(data, part) for part in parts}
    split = is_split(data.validation) and not {"train", "validation"}.isdisjoint(names)
    if split and not data.train:
        raise ValueError(
            f"data.validation={data.validation!r} is a part of data.train, which is not "
            "set: add --set data.train=folder:PATH."
        )
    if split:
        names |= {"train": data.train, "validation": None}
    sources = {
        part: open_source(name, data.data_dir, data.download, data.exif)
        for part, name in names.items()
        if name is not None
    }
    if split:
        rest, taken = split_off(sources["train"], data.validation)
        sources |= {"train": rest, "validation": taken}
    return {part: sources[part] for part in parts if part in sources}
