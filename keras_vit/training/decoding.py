"""Decoding of images: the same for training, evaluation and export."""

import re

from keras_vit.training.exif import (
    encoded_window,
    orientations,
    upright,
    upright_shape,
)
from keras_vit.training.host import tensorflow

# Pillow's, at the same speed; TensorFlow's own choice is one grey level off on average.
_DCT = "INTEGER_ACCURATE"


def decode_pixels(content, channels, window=None, exif=True):
    """Decode one image, inside `tf.data` or any other graph of TensorFlow.

    Reads JPEG, PNG, WebP, BMP and GIF; of an animation, the first frame. Colors become
    grey and grey becomes colors as `channels` asks for. Alpha is dropped. 16 bits become
    8 by division by 256; Pillow clips grey images of 16 bits instead. Orientations that
    only XMP states are ignored.

    Args:
        content: scalar string tensor, the file; or pixels, which are returned unchanged
            except for the window.
        channels: int, 1 or 3.
        window: None for all pixels, or a function from the shape `(h, w, c)` of the
            upright image to the part wanted, `(row, column, height, width)`, an int
            tensor.
        exif: bool, whether to turn the image upright as its EXIF orientation asks for.

    Returns:
        Tensor of shape `(h, w, channels)`, uint8, values 0 to 255; the pixels that
        Pillow reads (for grey from colors within 1).

    Raises:
        tensorflow.errors.InvalidArgumentError: when it runs: the file is damaged or no
            image, or a BMP that TensorFlow would decode to wrong colors.

    Example:

    >>> import tensorflow as tf
    >>> from keras_vit.training.decoding import decode_pixels
    >>> png = tf.io.encode_png(tf.fill((2, 3, 1), tf.constant(7, "uint8")))
    >>> decode_pixels(png, 3)[0, 0].numpy().tolist()
    [7, 7, 7]
    """
    tf = tensorflow()
    if content.dtype != tf.string:
        return content if window is None else _cropped(content, window(tf.shape(content)))
    orientation = orientations(content[None])[0] if exif else None
    return decode_oriented(content, orientation, channels, window)


def decode_oriented(content, orientation, channels, window=None):
    """Decode one image whose EXIF orientation is known.

    Args:
        content: scalar string tensor, the file.
        orientation: int32 scalar tensor, 1 to 8; None for pixels as they are stored.
        channels: int, 1 or 3.
        window: see `decode_pixels`.

    Returns:
        See `decode_pixels`.
    """
    tf = tensorflow()

    def box(shape):
        if orientation is None:
            return window(shape)
        shape = upright_shape(shape, orientation)
        return encoded_window(window(shape), shape, orientation)

    # In color first: libjpeg makes no grey from CMYK.
    def jpeg():
        if window is None:
            return tf.io.decode_jpeg(content, 3, dct_method=_DCT)
        part = box(tf.io.extract_jpeg_shape(content))
        return tf.image.decode_and_crop_jpeg(content, part, 3, dct_method=_DCT)

    def other():
        with tf.control_dependencies([_no_palette(content)]):
            pixels = tf.io.decode_image(content, 3, expand_animations=False)
        pixels = tf.ensure_shape(pixels, (None, None, 3))
        return pixels if window is None else _cropped(pixels, box(tf.shape(pixels)))

    pixels = tf.cond(tf.io.is_jpeg(content), jpeg, other)
    if orientation is not None:
        pixels = upright(pixels, orientation)
    pixels = tf.ensure_shape(pixels, (None, None, 3))
    return pixels if channels == 3 else tf.image.rgb_to_grayscale(pixels)


def reason(error: Exception) -> str:
    """Return why an image cannot be read, without TensorFlow's names of operations.

    Args:
        error: TensorFlow's or the operating system's.

    Returns:
        One line that ends with a period.
    """
    message = getattr(error, "message", str(error))
    text = re.sub(r"^\{\{.*?\}\}\s*|\s*\[Op:.*$", "", message, flags=re.DOTALL)
    return f"{text.splitlines()[0].rstrip('.')}."


def _cropped(pixels, window):
    row, column, height, width = tensorflow().unstack(window)
    return pixels[row : row + height, column : column + width]


def _no_palette(content):
    """Refuses BMPs of less than 24 bits a pixel."""
    tf = tensorflow()
    header = tf.strings.substr(content, 0, 30) + b"\0" * 30
    bits = tf.io.decode_raw(tf.strings.substr(header, 28, 2), tf.uint16)[0]
    good = (tf.strings.substr(header, 0, 2) != b"BM") | (bits >= 24)
    # tf.debugging's would put it into a branch, which servers pay for in milliseconds.
    message = "BMP with a palette; save it as PNG."
    return tf.raw_ops.Assert(condition=good, data=[message])
