"""RandAugment: a few randomly chosen operations on each image.

The implementation is stateless: an image and a seed determine the result, for any order
of the images and any number of threads. `keras.layers.RandAugment` and similar layers
draw from a stateful generator, which parallel threads advance in any order, and accept no
seed per image.
"""

import dataclasses
import functools
import math
import re

from keras_vit.data.host import tensorflow

MAX_LEVEL = 10.0


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
    interpolation. The operations match Pillow's pixel for pixel; big_vision's differ by
    at most 1 in `Color` and `Sharpness` because of rounding, and its shears read points
    that are 0.15 pixels away.
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
        tf = tensorflow()
        operations = _OPERATIONS[self.style]
        shape = image.shape
        for layer in range(self.layers):
            layer_seed = tf.random.fold_in(seed, layer)
            drawn = tf.random.stateless_uniform((5,), layer_seed)
            level = self.magnitude
            if self.magnitude_std:
                noise_seed = tf.random.fold_in(layer_seed, 1)
                noise = tf.random.stateless_normal((), noise_seed)
                level = level + self.magnitude_std * noise
                level = tf.clip_by_value(level, 0.0, MAX_LEVEL)
            draw = _Draw(
                level=tf.convert_to_tensor(level / MAX_LEVEL, "float32"),
                sign=tf.where(drawn[1] < 0.5, -1.0, 1.0),
                centre=drawn[2:4],
                fill=fill,
            )
            branches = [functools.partial(o, image, draw) for o in operations.values()]
            index = tf.cast(drawn[0] * len(branches), "int32")
            if self.probability < 1:
                branches.append(functools.partial(tf.identity, image))
                apply = drawn[4] < self.probability
                index = tf.where(apply, index, len(operations))
            image = tf.ensure_shape(tf.switch_case(index, branches), shape)
        return image


@dataclasses.dataclass(frozen=True)
class _Draw:
    level: object  # 0 to 1.
    sign: object  # -1 or 1.
    centre: object  # Two numbers in [0, 1).
    fill: tuple


def autocontrast(image):
    """Stretch each channel of a uint8 image to 0 to 255, as in `PIL.ImageOps`."""
    tf = tensorflow()
    values = tf.cast(image, "float32")
    low = tf.reduce_min(values, (0, 1))
    high = tf.reduce_max(values, (0, 1))
    # Use double precision like Pillow: the truncation below exposes the last bit.
    scale = 255.0 / tf.cast(tf.maximum(high - low, 1.0), "float64")
    table = tf.range(256, dtype="float64")[:, None] * scale
    table = table - tf.cast(low, "float64") * scale
    table = tf.cast(tf.clip_by_value(table, 0.0, 255.0), "uint8")
    identity = tf.cast(tf.range(256), "uint8")[:, None]
    return _look_up(tf.where(high > low, table, identity), image)


def equalize(image):
    """Equalize the histogram of each channel of a uint8 image, as in `PIL.ImageOps`."""
    tf = tensorflow()
    channels = image.shape[-1]
    values = tf.cast(image, "int32") + 256 * tf.range(channels)
    counts = tf.math.bincount(
        tf.reshape(values, (-1,)), minlength=256 * channels, maxlength=256 * channels
    )
    counts = tf.transpose(tf.reshape(counts, (channels, 256)))
    brightest = tf.cast(tf.reduce_max(image, (0, 1)), "int32")
    last = tf.linalg.diag_part(tf.gather(counts, brightest))
    step = (tf.reduce_sum(counts, 0) - last) // 255
    safe = tf.maximum(step, 1)
    table = (tf.cumsum(counts, 0, exclusive=True) + safe // 2) // safe
    table = tf.where(step > 0, tf.minimum(table, 255), tf.range(256)[:, None])
    return _look_up(tf.cast(table, "uint8"), image)


def _look_up(table, image):
    tf = tensorflow()
    channels = image.shape[-1]
    index = tf.cast(image, "int32") * channels + tf.range(channels)
    return tf.gather(tf.reshape(table, (-1,)), index)


def posterize(image, bits):
    """Keep the highest `bits` bits of a uint8 image's values, as in `PIL.ImageOps`."""
    tf = tensorflow()
    unit = tf.bitwise.left_shift(1, 8 - bits)
    return tf.cast(tf.cast(image, "int32") // unit * unit, "uint8")


def solarize(image, threshold):
    """Invert a uint8 image's values from `threshold` up, as in `PIL.ImageOps`."""
    tf = tensorflow()
    return tf.where(tf.cast(image, "int32") < threshold, image, 255 - image)


def solarize_add(image, addition):
    """Add `addition` to a uint8 image's values below 128."""
    tf = tensorflow()
    added = tf.minimum(tf.cast(image, "int32") + addition, 255)
    return tf.where(image < 128, tf.cast(added, "uint8"), image)


def brightness(image, factor):
    """Blend black with a uint8 image by `factor`, as in `PIL.ImageEnhance`."""
    return _blend(0.0, image, factor)


def contrast(image, factor, mean=None):
    """Blend a uniform gray with a uint8 image by `factor`, as in `PIL.ImageEnhance`.

    The gray level is `mean`, or by default the rounded mean of the grayscale image.
    """
    tf = tensorflow()
    if mean is None:
        grey = tf.cast(gray(image), "int64")
        pixels = tf.size(grey, tf.int64)
        mean = tf.cast((2 * tf.reduce_sum(grey) + pixels) // (2 * pixels), "float32")
    return _blend(mean, image, factor)


def color(image, factor):
    """Blend the grayscale image with the uint8 image, as in `PIL.ImageEnhance`."""
    tf = tensorflow()
    return _blend(tf.cast(gray(image), "float32"), image, factor)


def sharpness(image, factor):
    """Blend the smoothed image with the uint8 image, as in `PIL.ImageEnhance`."""
    tf = tensorflow()
    kernel = tf.constant([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]])
    kernel = tf.tile(kernel[:, :, None, None], (1, 1, image.shape[-1], 1))
    values = tf.cast(image, "float32")
    sums = tf.nn.depthwise_conv2d(values[None], kernel, (1, 1, 1, 1), "VALID")[0]
    smooth = tf.floor(sums / 13.0 + 0.5)
    # Pillow does not smooth the border.
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    inner = tf.pad(tf.ones((height - 2, width - 2, 1), "bool"), [[1, 1], [1, 1], [0, 0]])
    smooth = tf.where(inner, tf.pad(smooth, [[1, 1], [1, 1], [0, 0]]), values)
    return _blend(smooth, image, factor)


def affine(image, matrix, fill, interpolation):
    """Transform an image by an affine map, as `PIL.Image.transform` does.

    Args:
        image: uint8, `(h, w, c)`.
        matrix: six floats or scalars `(a, b, c, d, e, f)`: the output pixel with the
            center (x, y) is read at `(a x + b y + c, d x + e y + f)`.
        fill: one float per channel, the color outside of the image.
        interpolation: `"NEAREST"` or `"BILINEAR"`.

    Returns:
        uint8, `(h, w, c)`.
    """
    tf = tensorflow()
    a, b, c, d, e, f = (tf.cast(entry, "float32") for entry in matrix)
    # The center of the first pixel is 0 in TensorFlow's coordinates, and 0.5 in Pillow's.
    c = c + 0.5 * (a + b - 1.0)
    f = f + 0.5 * (d + e - 1.0)
    zero = tf.zeros(())
    # Subtract the fill color, because the operation fills all channels with one value.
    values = tf.cast(image, "float32") - fill
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=values[None],
        transforms=tf.stack([a, b, c, d, e, f, zero, zero])[None],
        output_shape=tf.shape(image)[:2],
        fill_value=0.0,
        interpolation=interpolation,
        fill_mode="CONSTANT",
    )[0]
    return tf.cast(tf.round(moved + fill), "uint8")


def cutout(image, centre, half_side, fill):
    """Fill a square of side `2 half_side` around `centre` (0 to 1) in a uint8 image."""
    tf = tensorflow()
    size = tf.shape(image)[:2]
    row, column = tf.unstack(tf.cast(centre * tf.cast(size, "float32"), "int32"))

    def within(length, position):
        index = tf.range(length)
        return (index >= position - half_side) & (index < position + half_side)

    square = within(size[0], row)[:, None] & within(size[1], column)[None, :]
    return tf.where(square[:, :, None], tf.cast(fill, "uint8"), image)


def gray(image):
    """Return an image in grayscale, as Pillow's mode "L": int32, `(h, w, 1)`."""
    tf = tensorflow()
    weighted = tf.cast(image, "int32") * tf.constant([19595, 38470, 7471])
    return (tf.reduce_sum(weighted, -1, keepdims=True) + 32768) // 65536


def _blend(degenerate, image, factor):
    tf = tensorflow()
    values = degenerate + factor * (tf.cast(image, "float32") - degenerate)
    return tf.cast(tf.clip_by_value(values, 0.0, 255.0), "uint8")


def _rotation(image, radians):
    tf = tensorflow()
    height = tf.cast(tf.shape(image)[0], "float32")
    width = tf.cast(tf.shape(image)[1], "float32")
    cos, sin = tf.cos(radians), tf.sin(radians)
    x, y = width / 2.0, height / 2.0
    return (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


def _move(matrix):
    """Return an operation that moves an image by `matrix(image, signed level)`."""

    def operation(image, draw):
        return affine(image, matrix(image, draw.sign * draw.level), draw.fill, "BILINEAR")

    return operation


def _move_nearest(matrix):
    def operation(image, draw):
        grey = (128.0,) * image.shape[-1]
        return affine(image, matrix(image, draw.sign * draw.level), grey, "NEAREST")

    return operation


def _whole(value):
    return tensorflow().cast(value, "int32")


def _side(image, axis):
    tf = tensorflow()
    return tf.cast(tf.shape(image)[axis], "float32")


def _enhance(draw):
    return draw.level * 1.8 + 0.1


def _enhance_increasing(draw):
    return tensorflow().maximum(0.1, 1.0 + draw.sign * draw.level * 0.9)


def _contrast_of_big_vision(image, draw):
    tf = tensorflow()
    pixels = tf.cast(tf.shape(image)[0] * tf.shape(image)[1], "float32")
    mean = tf.floor(tf.minimum(pixels / 256.0, 255.0))
    return contrast(image, _enhance(draw), mean)


def _rotate(image, level):
    return _rotation(image, level * math.radians(30.0))


def _shear_x(image, level):
    return (1.0, 0.3 * level, 0.0, 0.0, 1.0, 0.0)


def _shear_y(image, level):
    return (1.0, 0.0, 0.0, 0.3 * level, 1.0, 0.0)


_OPERATIONS = {
    "big_vision": {
        "AutoContrast": lambda image, draw: autocontrast(image),
        "Equalize": lambda image, draw: equalize(image),
        "Invert": lambda image, draw: 255 - image,
        "Rotate": _move_nearest(_rotate),
        "Posterize": lambda image, draw: posterize(image, _whole(draw.level * 4)),
        "Solarize": lambda image, draw: solarize(image, _whole(draw.level * 256)),
        "Color": lambda image, draw: color(image, _enhance(draw)),
        "Contrast": _contrast_of_big_vision,
        "Brightness": lambda image, draw: brightness(image, _enhance(draw)),
        "Sharpness": lambda image, draw: sharpness(image, _enhance(draw)),
        "ShearX": _move_nearest(_shear_x),
        "ShearY": _move_nearest(_shear_y),
        "TranslateX": _move_nearest(lambda _, level: (1, 0, 100.0 * level, 0, 1, 0)),
        "TranslateY": _move_nearest(lambda _, level: (1, 0, 0, 0, 1, 100.0 * level)),
        "Cutout": lambda image, draw: cutout(
            image, draw.centre, _whole(draw.level * 40), 128
        ),
        "SolarizeAdd": lambda image, draw: solarize_add(image, _whole(draw.level * 110)),
    },
    "timm": {
        "AutoContrast": lambda image, draw: autocontrast(image),
        "Equalize": lambda image, draw: equalize(image),
        "Invert": lambda image, draw: 255 - image,
        "Rotate": _move(_rotate),
        "Posterize": lambda image, draw: posterize(image, 4 - _whole(draw.level * 4)),
        "Solarize": lambda image, draw: solarize(image, 256 - _whole(draw.level * 256)),
        "SolarizeAdd": lambda image, draw: solarize_add(image, _whole(draw.level * 110)),
        "Color": lambda image, draw: color(image, _enhance_increasing(draw)),
        "Contrast": lambda image, draw: contrast(image, _enhance_increasing(draw)),
        "Brightness": lambda image, draw: brightness(image, _enhance_increasing(draw)),
        "Sharpness": lambda image, draw: sharpness(image, _enhance_increasing(draw)),
        "ShearX": _move(_shear_x),
        "ShearY": _move(_shear_y),
        "TranslateX": _move(
            lambda image, level: (1, 0, 0.45 * level * _side(image, 1), 0, 1, 0)
        ),
        "TranslateY": _move(
            lambda image, level: (1, 0, 0, 0, 1, 0.45 * level * _side(image, 0))
        ),
    },
}
