"""Operations on uint8 images that move pixels or depend on their place."""

from keras_vit.data.color_operations import blend
from keras_vit.data.host import tensorflow


def affine(image, matrix, fill, interpolation):
    """Transform an image by an affine map.

    With `"NEAREST"` it equals `PIL.Image.transform`. With `"BILINEAR"` Pillow truncates
    instead of rounding, and repeats the border instead of blending it with `fill`.

    Args:
        image: uint8, `(h, w, c)`.
        matrix: six floats or scalars `(a, b, c, d, e, f)`: the output pixel with the
            center (x, y) is read at `(a x + b y + c, d x + e y + f)`.
        fill: one float per channel, the color outside of the image.
        interpolation: `"NEAREST"` or `"BILINEAR"`.

    Returns:
        uint8, `(h, w, c)`.

    Example:

    >>> import numpy as np
    >>> from keras_vit.data.spatial_operations import affine
    >>> image = np.array([[[1], [2], [3]]], "uint8")
    >>> affine(image, (1, 0, 1, 0, 1, 0), (9,), "NEAREST").numpy().ravel().tolist()
    [2, 3, 9]
    """
    tf = tensorflow()
    image = tf.convert_to_tensor(image)
    height, width, channels = tf.unstack(tf.shape(image))
    a, b, c, d, e, f = (tf.cast(entry, "float32") for entry in tf.unstack(matrix))
    # Pixels are numbered by their corners below, so their centers are half a pixel away.
    x = tf.cast(tf.range(width), "float32")[None, :] + 0.5
    y = tf.cast(tf.range(height), "float32")[:, None] + 0.5
    column, row = a * x + b * y + c - 0.5, d * x + e * y + f - 0.5
    pixels = tf.reshape(image, (-1, channels))

    def read(row, column):
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        place = tf.where(inside, row * width + column, 0)
        values = tf.gather(pixels, place)
        return tf.where(inside[:, :, None], values, tf.cast(fill, "uint8"))

    def whole(value):
        return tf.cast(tf.floor(value), "int32")

    if interpolation == "NEAREST":
        return read(whole(row + 0.5), whole(column + 0.5))
    top, left = whole(row), whole(column)
    down = (row - tf.floor(row))[:, :, None]
    right = (column - tf.floor(column))[:, :, None]

    def mixed(row):
        first = tf.cast(read(row, left), "float32")
        second = tf.cast(read(row, left + 1), "float32")
        return (1.0 - right) * first + right * second

    return tf.cast(tf.round((1.0 - down) * mixed(top) + down * mixed(top + 1)), "uint8")


def rotation(image, radians):
    """Return the matrix for `affine` that rotates an image around its center.

    Args:
        image: uint8, `(h, w, c)`.
        radians: float32 scalar.
    """
    tf = tensorflow()
    y, x = tf.unstack(tf.cast(tf.shape(image)[:2], "float32") / 2.0)
    cos, sin = tf.cos(radians), tf.sin(radians)
    return (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)


def sharpness(image, factor):
    """Blend the smoothed image with the uint8 image, as in `PIL.ImageEnhance`."""
    tf = tensorflow()
    image = tf.convert_to_tensor(image)
    height, channels = tf.shape(image)[0], image.shape[-1]
    # Rows without a channel axis are longer, and thus faster.
    rows = tf.reshape(image, (height, -1))
    values = tf.cast(rows, "float32")
    sums = values[:-2] + values[1:-1] + values[2:]
    sums = (
        sums[:, : -2 * channels] + sums[:, channels:-channels] + sums[:, 2 * channels :]
    )
    inner = values[1:-1, channels:-channels]
    smooth = tf.floor((sums + 4.0 * inner) / 13.0 + 0.5)
    sharp = blend(smooth, inner, factor)
    # Pillow does not smooth the border.
    sharp = tf.concat([rows[1:-1, :channels], sharp, rows[1:-1, -channels:]], 1)
    return tf.reshape(tf.concat([rows[:1], sharp, rows[-1:]], 0), tf.shape(image))


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
