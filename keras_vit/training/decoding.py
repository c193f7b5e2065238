"""Decoding of images: the same for training, evaluation and export."""

import re

from keras_vit.training.exif import (
    encoded_window,
    orientations,
    upright,
    upright_shape,
)
from keras_vit.training.file_bytes import number, read, starts
from keras_vit.training.host import tensorflow

# Pillow's, at the same speed; TensorFlow's own choice is one grey level off on average.
_DCT = "INTEGER_ACCURATE"

# Red, green and blue in 32 bits whose bytes are blue, green and red.
_BGR_MASKS = b"\0\0\xff\0" + b"\0\xff\0\0" + b"\xff\0\0\0"

# The start of the JPEG segment in which Adobe's programs, and Pillow, state the colors.
_ADOBE = b"\xff\xee\0\x0eAdobe"


def decode_pixels(content, channels, window=None, exif=True):
    """Decode one image, inside `tf.data` or any other graph of TensorFlow.

    Reads JPEG, PNG, WebP, BMP and GIF; of an animation, the first frame. Colors become
    grey and grey becomes colors as `channels` asks for. Alpha and transparency
    are dropped. 16 bits become
    8 by division by 256; Pillow clips grey images of 16 bits instead. Orientations that
    only XMP or a text in a PNG states are ignored.

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
            image, a BMP or CMYK JPEG that TensorFlow would decode to wrong colors, an
            animated WebP, or a GIF whose first frame does not fill its screen.

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
        shape = tf.io.extract_jpeg_shape(content)
        file = _checked_jpeg(content, shape)
        if window is None:
            return tf.io.decode_jpeg(file, 3, dct_method=_DCT)
        return tf.image.decode_and_crop_jpeg(file, box(shape), 3, dct_method=_DCT)

    def other():
        # With any channels, because TensorFlow drops no alpha from WebP.
        file = _without_transparency(_checked(content))
        pixels = tf.io.decode_image(file, 0, expand_animations=False)
        pixels = _whole_screen(file, tf.ensure_shape(pixels, (None, None, None)))
        pixels = _in_color(pixels)
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
    text = re.sub(r"^assertion failed: \[(.*)\]", r"\1", text.splitlines()[0])
    return f"{text.rstrip('.')}."


def _cropped(pixels, window):
    row, column, height, width = tensorflow().unstack(window)
    return pixels[row : row + height, column : column + width]


def _in_color(pixels):
    """Return grey, color, or either with alpha as color; color is not copied."""
    tf = tensorflow()
    height, width, channels = tf.unstack(tf.shape(pixels))
    pixels = pixels[:, :, : tf.where(channels < 3, 1, 3)]
    return tf.broadcast_to(pixels, (height, width, 3))


def _without_transparency(content):
    """Return the file; GIFs without the extension that makes a color transparent.

    TensorFlow paints transparent pixels black, Pillow in their own color. Without the
    extension of its first frame, nothing else changes in that.
    """
    tf = tensorflow()
    is_gif = tf.strings.substr(content, 0, tf.minimum(tf.strings.length(content), 3))
    is_gif = is_gif == b"GIF"
    # RE2 reads UTF-8, in which no pattern but \C matches the extension's byte 0xF9.
    extension = r"\x21\C\x04[\x00-\x1f]\C\C\C\x00([\x21\x2c])"
    gif = tf.where(is_gif, content, b"")
    gif = tf.strings.regex_replace(gif, extension, r"\1", replace_global=False)
    return tf.where(is_gif, gif, content)


def _whole_screen(content, pixels):
    """Return the pixels; refuse GIFs whose first frame is only a part of the image.

    TensorFlow returns an image of the size of the largest frame, black around the first;
    Pillow one of the size of the screen, in the background color around the first.

    Args:
        content: scalar string tensor, the file, as `_without_transparency` returns it.
        pixels: the file as TensorFlow decodes it, `(h, w, c)`.
    """
    tf = tensorflow()
    header = read(content[None], tf.zeros([1], tf.int64), 13)[0]
    little, is_gif = tf.constant(True), starts(header, b"GIF")
    screen = number(tf.reshape(header[6:10], (2, 2)), little)
    frame = _first_descriptor(content, header, is_gif)[1:]
    frame = number(tf.reshape(frame, (4, 2)), little)
    height, width, _ = tf.unstack(tf.shape(pixels, tf.int64))
    decoded = tf.stack([tf.zeros_like(width), tf.zeros_like(width), width, height])
    whole = tf.reduce_all(frame == decoded) & tf.reduce_all(screen <= decoded[2:])
    message = "GIF whose first frame does not fill its screen: save it as PNG."
    check = tf.raw_ops.Assert(condition=whole | ~is_gif, data=[message])
    with tf.control_dependencies([check]):
        return tf.identity(pixels)


def _first_descriptor(content, header, is_gif):
    """Return the first 9 bytes of the first frame's descriptor in a GIF, or zeros.

    The extensions before it end with a zero byte, and the descriptor begins with a comma.
    An extension that happens to contain both makes the image be refused.
    """
    tf = tensorflow()
    length = tf.cast(tf.strings.length(content), tf.int64)
    colors = tf.where(header[10] >= 128, 3 * 2 ** (header[10] % 8 + 1), 0)
    start = tf.minimum(13 + colors, length)
    blocks = tf.strings.substr(content, start, tf.where(is_gif, length - start, 0))
    before = tf.strings.regex_replace(b"\0" + blocks, r"\x00\x2c\C*$", "")
    position = start + tf.cast(tf.strings.length(before), tf.int64)
    return read(content[None], position[None], 9)[0]


def _checked(content):
    """Return the file; refuse what TensorFlow decodes to wrong colors, or crashes on.

    In BMPs it takes palettes and 16 bits for pixels, and all headers for those of 40
    bytes or more with blue, green, red and perhaps alpha. Opaque animated WebPs overflow
    its buffer (2.21).
    """
    tf = tensorflow()
    header = read(content[None], tf.zeros([1], tf.int64), 66)[0]
    little = tf.constant(True)
    bits, compression = number(header[28:30], little), number(header[30:34], little)
    plain = (compression == 0) | (compression == 3) & starts(header[54:], _BGR_MASKS)
    good_bmp = (number(header[14:18], little) >= 40) & (bits >= 24) & plain
    is_webp = starts(header, b"RIFF") & starts(header[8:], b"WEBP")
    moves = is_webp & starts(header[12:], b"VP8X") & (header[20] // 2 % 2 == 1)
    good = ~moves & (~starts(header, b"BM") | good_bmp)
    message = tf.where(
        moves,
        "Animated WebP: save one of its frames.",
        "BMP with a palette, of 16 bits, compressed, of OS/2, or with its colors in "
        "another order: save it as PNG.",
    )
    return _asserted(good, content, message)


def _checked_jpeg(content, shape):
    """Return the file; refuse four colors that no Adobe marker explains.

    TensorFlow then takes 255 for full ink, Pillow for none.
    """
    tf = tensorflow()
    has_black = shape[2] == 4
    parts = tf.strings.split(tf.where(has_black, content, b"")[None], _ADOBE)
    good = ~has_black | (parts.row_lengths()[0] > 1)
    return _asserted(good, content, "CMYK JPEG without an Adobe marker: save it as RGB.")


def _asserted(good, content, message):
    """Return the file if `good`, else raise an error with this message."""
    tf = tensorflow()
    # tf.debugging's would put it into a branch, which servers pay for in milliseconds.
    check = tf.raw_ops.Assert(condition=good, data=[message])
    with tf.control_dependencies([check]):
        return tf.where(good, content, b"")
