"""Numbers of images and classes of public data sets, for plans without the images."""

import re
from typing import NamedTuple

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


def known_set(config: configs.Config) -> KnownSet | None:
    """Return the size of the training set of a config, or None if it is not known.

    Args:
        config: the config.

    Example:

    >>> from keras_vit.training import config as configs
    >>> from keras_vit.training.known_sets import known_set
    >>> known_set(configs.load("vit_s16_imagenet_90ep"))
    KnownSet(images=1268355, classes=1000)
    """
    name = re.match(r"(?:\w+:)?\w+", config.data.train)
    found = KNOWN.get(name[0]) or KNOWN.get(name[0].partition(":")[0]) if name else None
    if found is None:
        return None
    images = float(found.images)
    part = re.search(r"\[:(\d+)(%?)\]", config.data.train)
    if part:
        number = int(part[1])
        images = images * number / 100 if part[2] else min(images, number)
    return found._replace(images=round(images * config.data.fraction))
