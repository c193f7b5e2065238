"""Numbers of images and classes of public data sets, for plans without the images."""

import re
from typing import NamedTuple

from keras_vit.data.splits import is_split
from keras_vit.training import config as configs


class KnownSet(NamedTuple):
    """Size of a training set.

    Attributes:
        images: number of images.
        classes: number of classes.
    """

    images: int
    classes: int


# Training sets by the name in configs, without the split; sizes from their publishers.
KNOWN = {
    "digits": KnownSet(1_257, 10),
    "folder:imagenet21k": KnownSet(14_197_122, 21_841),
    "tfds:cifar10": KnownSet(50_000, 10),
    "tfds:cifar100": KnownSet(50_000, 100),
    "tfds:dtd": KnownSet(1_880, 47),
    "tfds:imagenet2012": KnownSet(1_281_167, 1000),
    "tfds:oxford_flowers102": KnownSet(1_020, 102),
    "tfds:oxford_iiit_pet": KnownSet(3_680, 37),
}
# Name of a set, its version, and a slice of its training split.
NAME = re.compile(
    r"(?P<set>(?:tfds:|folder:)?\w+)(?::[\d.*]+)?(?:[:/]train)?"
    r"(?:\[(?P<first>\d+%?)?:(?P<last>\d+%?)?\])?"
)


def known_set(config: configs.Config) -> KnownSet | None:
    """Return the size of the training set of a config, or None if it is not known.

    The validation set is subtracted if it is split off. The size of a split other than
    `train`, and of several splits together, is not known.

    Args:
        config: the config.

    Example:

    >>> from keras_vit.training import config as configs
    >>> from keras_vit.training.known_sets import known_set
    >>> known_set(configs.load("vit_s16_imagenet_90ep"))
    KnownSet(images=1268355, classes=1000)
    """
    data = config.data
    name = NAME.fullmatch(data.train)
    found = name and KNOWN.get(name["set"])
    if not name or not found:
        return None
    first = _position(name["first"] or "0%", found.images)
    last = _position(name["last"] or "100%", found.images)
    images = last - first
    if is_split(data.validation):
        share = re.match(r"split:(0?\.\d+)", data.validation)
        if share is None:
            return None
        images *= 1 - float(share[1])
    if images <= 0:
        return None
    return found._replace(images=round(images * data.fraction))


def _position(text, images):
    """Return the position in a set that the start or the end of a slice stands for."""
    number = int(text.removesuffix("%"))
    return images * number / 100 if text.endswith("%") else min(images, number)
