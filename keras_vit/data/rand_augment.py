"""RandAugment: a few randomly chosen operations on each image.

The implementation is stateless: an image and a seed determine the result, for any order
of the images and any number of threads. `keras.layers.RandAugment` and similar layers
draw from a stateful generator, which parallel threads advance in any order, and accept no
seed per image.

TensorFlow draws the random numbers. XLA compiles all operations into one program, in
which an operation is a table of 256 values per channel, an affine map, or one of the few
operations that are neither, and passes over the pixels once or twice.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from keras_vit.data.color_operations import (
    all_values,
    autocontrast_table,
    brightness,
    color,
    contrast,
    equalize_table,
    gray_mean,
    histogram,
    look_up,
    posterize,
    product,
    solarize,
    solarize_add,
)
from keras_vit.data.host import compiled, tensorflow
from keras_vit.data.spatial_operations import affine, cutout, rotation, sharpness

MAX_LEVEL = 10.0
MOST_STD = 100.0  # Beyond it, timm draws uniform magnitudes.


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """RandAugment for one image: a few randomly chosen operations.

    `RandAugment.parse` reads settings as they are published, such as `rand-m9-inc1`.

    Args:
        style: `"big_vision"` or `"timm"`, the set of operations and their magnitudes.
        layers: int, number of operations applied to an image.
        magnitude: float, 0 to 10.
        magnitude_std: float, standard deviation of each operation's magnitude.
        probability: float, probability that a chosen operation is applied.

    Example:

    >>> import tensorflow as tf
    >>> from keras_vit.data import RandAugment
    >>> augment = RandAugment.parse("rand-m9-mstd0.5-inc1")
    >>> augment.magnitude
    9.0
    >>> image = tf.zeros((8, 8, 3), "uint8")
    >>> tuple(augment(image, seed=(0, 1)).shape)
    (8, 8, 3)

    Reference: https://arxiv.org/abs/1909.13719. big_vision's `pp/autoaugment.py`,
    including its peculiarities: the mean of `Contrast` is the number of pixels / 256,
    `Solarize` does nothing at magnitude 10, and translations and cutouts are in pixels,
    meant for images of 224x224. timm's `auto_augment.py`. Deviations: moved images are
    interpolated bilinearly, while timm randomly chooses bilinear or bicubic
    interpolation; and they are rounded and blend with the fill color at the border of the
    image, where Pillow truncates and repeats the border. All other operations match
    Pillow's pixel for pixel; big_vision's differ by at most 1 in `Color` and `Sharpness`
    because of rounding, and its shears read points that are 0.15 pixels away.
    """

    style: str
    layers: int = 2
    magnitude: float = 10.0
    magnitude_std: float = 0.0
    probability: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "RandAugment":
        """Parse big_vision's `randaug(2,10)` or timm's `rand-m9-mstd0.5-inc1`.

        Args:
            text: `randaug(LAYERS,MAGNITUDE)`, or `rand-mMAGNITUDE[-nLAYERS][-mstdSTD]
                [-pPROBABILITY]-inc1` (defaults: 2 layers, STD 0, PROBABILITY 0.5).

        Returns:
            A `RandAugment`.

        Raises:
            ValueError: `text` has neither form, or a number is out of its range.
        """
        number = r"(\d+(?:\.\d+)?)"
        big_vision = re.fullmatch(rf"randaug\((\d+), *{number}\)", text)
        if big_vision:
            result = cls("big_vision", int(big_vision[1]), float(big_vision[2]))
        else:
            known = ("m", "n", "mstd", "p", "inc")
            values = dict(re.findall(rf"-({'|'.join(known)}){number}", text))
            if (
                not re.fullmatch(rf"rand(-({'|'.join(known)}){number})+", text)
                or "m" not in values
                or float(values.get("inc", 0)) != 1
                or not values.get("n", "2").isdigit()
            ):
                raise ValueError(
                    f"Unknown RandAugment {text!r}: use big_vision's form, "
                    "'randaug(2,10)', or timm's, 'rand-m9-mstd0.5-inc1', with inc1 and "
                    "any of n (layers), mstd, p."
                )
            result = cls(
                "timm",
                int(values.get("n", 2)),
                float(values["m"]),
                float(values.get("mstd", 0)),
                float(values.get("p", 0.5)),
            )
        if result.magnitude > MAX_LEVEL or result.probability > 1 or result.layers < 1:
            raise ValueError(
                f"RandAugment {text!r}: the magnitude is at most {MAX_LEVEL:g}, the "
                "probability at most 1, the layers 1 or more."
            )
        if result.magnitude_std > MOST_STD:
            raise ValueError(f"RandAugment {text!r}: mstd is at most {MOST_STD:g}.")
        return result

    def __call__(self, image, seed, fill=(128.0, 128.0, 128.0)):
        """Apply randomly chosen operations to one image.

        Args:
            image: uint8, `(h, w, 3)`.
            seed: int32 or int64, `(2,)`.
            fill: three floats, the color outside of the image for moved images in timm's
                style; big_vision's style always uses 128.

        Returns:
            uint8, `(h, w, 3)`.
        """
        # One program for all layers: XLA takes six times as long to compile two of them.
        apply = compiled(apply_one)
        for layer in range(self.layers):
            image = apply(self.style, image, self._draw(seed, layer), fill)
        return image

    def _draw(self, seed, layer):
        tf = tensorflow()
        layer_seed = tf.random.fold_in(seed, layer)
        drawn = tf.random.stateless_uniform((5,), layer_seed)
        level = self.magnitude
        if self.magnitude_std:
            noise_seed = tf.random.fold_in(layer_seed, 1)
            noise = tf.random.stateless_normal((), noise_seed)
            level = level + self.magnitude_std * noise
            level = tf.clip_by_value(level, 0.0, MAX_LEVEL)
        operations = len(OPERATIONS[self.style])
        index = tf.cast(drawn[0] * operations, "int32")
        if self.probability < 1:
            index = tf.where(drawn[4] < self.probability, index, operations)
        return Draw(
            index=index,
            level=tf.convert_to_tensor(level / MAX_LEVEL, "float32"),
            sign=tf.where(drawn[1] < 0.5, -1.0, 1.0),
            centre=drawn[2:4],
        )


class Draw(NamedTuple):
    """Random numbers of one operation on one image.

    Attributes:
        index: int32, the position of the operation in its style's `OPERATIONS`; their
            number for no operation.
        level: float32, 0 to 1, the magnitude.
        sign: float32, -1 or 1, the direction of the operation.
        centre: float32, `(2,)`, 0 to 1, the position of `Cutout`.
    """

    index: Any
    level: Any
    sign: Any
    centre: Any


class Table(NamedTuple):
    """Operation that is a table: a function of the image and the draw that returns it."""

    function: Callable


class Move(NamedTuple):
    """Operation that is an affine map: a function of the image and the signed level."""

    function: Callable


class Other(NamedTuple):
    """Operation that is neither: a function of the image and the draw."""

    function: Callable


def apply_one(style, image, draw, fill):
    """Apply the operation `draw.index` of a style to a uint8 image."""
    tf = tensorflow()
    operations = list(OPERATIONS[style].values())
    kinds = [type(operation) for operation in operations]
    # The number of each operation among those of its kind.
    numbers = [kinds[:place].count(kind) for place, kind in enumerate(kinds)]
    number = tf.gather([*numbers, 0], draw.index)

    def chosen(kind, *arguments):
        functions = [
            functools.partial(operation.function, *arguments)
            for operation in operations
            if isinstance(operation, kind)
        ]
        return tf.switch_case(number, functions)

    def moved():
        matrix = chosen(Move, image, draw.sign * draw.level)
        if style == "big_vision":
            return affine(image, matrix, (128.0,) * image.shape[-1], "NEAREST")
        return affine(image, matrix, fill, "BILINEAR")

    branches: dict[type | None, Callable] = {
        Table: lambda: look_up(chosen(Table, image, draw), image),
        Move: moved,
        Other: lambda: chosen(Other, image, draw),
        None: lambda: tf.identity(image),
    }
    order = list(branches)
    branch = tf.gather([order.index(kind) for kind in (*kinds, None)], draw.index)
    return tf.switch_case(branch, list(branches.values()))


def _values(image):
    return all_values(image.shape[-1])


def _whole(value):
    return tensorflow().cast(value, "int32")


def _side(image, axis):
    tf = tensorflow()
    return tf.cast(tf.shape(image)[axis], "float32")


def _enhance(draw):
    return product(draw.level, 1.8) + 0.1


def _enhance_increasing(draw):
    return tensorflow().maximum(0.1, 1.0 + product(draw.sign * draw.level, 0.9))


def _contrast(image, draw):
    return contrast(_values(image), _enhance_increasing(draw), gray_mean(image))


def _contrast_of_big_vision(image, draw):
    tf = tensorflow()
    pixels = tf.cast(tf.shape(image)[0] * tf.shape(image)[1], "float32")
    mean = tf.floor(tf.minimum(pixels / 256.0, 255.0))
    return contrast(_values(image), _enhance(draw), mean)


def _matrix(*entries):
    """Return a matrix for `affine` as one tensor, which all branches can return."""
    tf = tensorflow()
    return tf.stack([tf.cast(entry, "float32") for entry in entries])


def _rotate(image, level):
    return _matrix(*rotation(image, level * math.radians(30.0)))


def _shear_x(image, level):
    return _matrix(1, 0.3 * level, 0, 0, 1, 0)


def _shear_y(image, level):
    return _matrix(1, 0, 0, 0.3 * level, 1, 0)


def _move_x(pixels):
    return _matrix(1, 0, pixels, 0, 1, 0)


def _move_y(pixels):
    return _matrix(1, 0, 0, 0, 1, pixels)


# Operations that are the same in both styles.
_AUTO_CONTRAST = Table(lambda image, draw: autocontrast_table(histogram(image)))
_EQUALIZE = Table(lambda image, draw: equalize_table(histogram(image)))
_INVERT = Table(lambda image, draw: 255 - _values(image))
_SOLARIZE_ADD = Table(
    lambda image, draw: solarize_add(_values(image), _whole(draw.level * 110))
)

OPERATIONS = {
    "big_vision": {
        "AutoContrast": _AUTO_CONTRAST,
        "Equalize": _EQUALIZE,
        "Invert": _INVERT,
        "Rotate": Move(_rotate),
        "Posterize": Table(
            lambda image, draw: posterize(_values(image), _whole(draw.level * 4))
        ),
        "Solarize": Table(
            lambda image, draw: solarize(_values(image), _whole(draw.level * 256))
        ),
        "Color": Other(lambda image, draw: color(image, _enhance(draw))),
        "Contrast": Table(_contrast_of_big_vision),
        "Brightness": Table(
            lambda image, draw: brightness(_values(image), _enhance(draw))
        ),
        "Sharpness": Other(lambda image, draw: sharpness(image, _enhance(draw))),
        "ShearX": Move(_shear_x),
        "ShearY": Move(_shear_y),
        "TranslateX": Move(lambda image, level: _move_x(100.0 * level)),
        "TranslateY": Move(lambda image, level: _move_y(100.0 * level)),
        "Cutout": Other(
            lambda image, draw: cutout(image, draw.centre, _whole(draw.level * 40), 128)
        ),
        "SolarizeAdd": _SOLARIZE_ADD,
    },
    "timm": {
        "AutoContrast": _AUTO_CONTRAST,
        "Equalize": _EQUALIZE,
        "Invert": _INVERT,
        "Rotate": Move(_rotate),
        "Posterize": Table(
            lambda image, draw: posterize(_values(image), 4 - _whole(draw.level * 4))
        ),
        "Solarize": Table(
            lambda image, draw: solarize(_values(image), 256 - _whole(draw.level * 256))
        ),
        "SolarizeAdd": _SOLARIZE_ADD,
        "Color": Other(lambda image, draw: color(image, _enhance_increasing(draw))),
        "Contrast": Table(_contrast),
        "Brightness": Table(
            lambda image, draw: brightness(_values(image), _enhance_increasing(draw))
        ),
        "Sharpness": Other(
            lambda image, draw: sharpness(image, _enhance_increasing(draw))
        ),
        "ShearX": Move(_shear_x),
        "ShearY": Move(_shear_y),
        "TranslateX": Move(lambda image, level: _move_x(0.45 * level * _side(image, 1))),
        "TranslateY": Move(lambda image, level: _move_y(0.45 * level * _side(image, 0))),
    },
}
