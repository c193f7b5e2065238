"""Image decoding, shared by training, evaluation and export."""

import functools
import re
from typing import Any, NamedTuple

from keras_vit.data import other_formats
from keras_vit.data.exif import (
    encoded_window,
    orientations,
    upright,
    upright_shape,
)
from keras_vit.data.file_bytes import PNG, contains, number, read, starts
from keras_vit.data.host import tensorflow

# The DCT method of Pillow. TensorFlow's default is not faster, and differs from Pillow by
# one gray level on average.
_DCT = "INTEGER_ACCURATE"

# Masks of red, green and blue in 32-bit pixels whose bytes are in the order B, G, R.
_BGR_MASKS = b"\0\0\xff\0" + b"\0\xff\0\0" + b"\xff\0\0\0"

# Start of the JPEG segment in which Adobe's programs and Pillow state the color space.
_ADOBE = b"\xff\xee\0\x0eAdobe"


def decode_pixels(content, channels, window=None, exif=True):
    """Decode one image inside `tf.data` or any other TensorFlow graph.

    The function reads JPEG, PNG, WebP, BMP and GIF (the first frame of an animation),
    and through Python also `.npy` arrays and what Pillow reads of TIFF (the first page),
    AVIF and HEIC. For 1 or 3 channels, color images are converted to grayscale, or
    grayscale to color, and alpha is dropped. For any other number, images must have it:
    PNG, WebP and TIFF with alpha for 4, `.npy` and TIFF for more. 16-bit
    values are divided by 256, while Pillow clips 16-bit grayscale images. Orientations
    stored only in XMP or in a PNG text chunk are ignored.

    Args:
        content: scalar string tensor, the file; or an array of pixels, which is only
            cropped to the window.
        channels: int, number of channels of the result.
        window: None for all pixels, or a function from the shape `(h, w, c)` of the
            upright image to the window to decode, an int tensor
            `(row, column, height, width)`.
        exif: bool, whether to apply the EXIF orientation of the image. It is always
            applied to TIFF (of up to 4 channels), AVIF and HEIC.

    Returns:
        uint8 tensor of shape `(h, w, channels)` with values 0 to 255. They equal those of
        Pillow, up to 1 for color images converted to grayscale.

    Raises:
        tensorflow.errors.InvalidArgumentError: at run time: the file is damaged or not
            an image, a BMP or CMYK JPEG that TensorFlow would decode to wrong colors, an
            animated WebP, a GIF whose first frame does not fill its screen, or an image
            with another number of channels.

    Example:

    >>> import tensorflow as tf
    >>> from keras_vit.data import decode_pixels
    >>> png = tf.io.encode_png(tf.fill((2, 3, 1), tf.constant(7, "uint8")))
    >>> decode_pixels(png, 3)[0, 0].numpy().tolist()
    [7, 7, 7]
    """
    tf = tensorflow()
    if content.dtype != tf.string:
        return content if window is None else _cropped(content, window(tf.shape(content)))

    @_called_rarely
    def rare():
        return _decoded(content, channels, window, exif)

    if channels not in (1, 3):
        return tf.ensure_shape(rare(), (None, None, channels))

    def jpeg():
        shape = tf.io.extract_jpeg_shape(content)
        box = window and window(shape)
        # The same file, after a check.
        cmyk = _called_rarely(lambda: _with_adobe(content))
        file = tf.cond(shape[2] == 4, cmyk, lambda: content)
        return _decoded_jpeg(file, box)

    def png():
        pixels = tf.io.decode_png(content, 3)
        return pixels if window is None else _cropped(pixels, window(tf.shape(pixels)))

    def other():
        return tf.cond(simple & _is_png(content), png, rare)

    is_jpeg = tf.io.is_jpeg(content)
    simple = ~_mentions_exif(content, is_jpeg) if exif else tf.constant(True)
    pixels = tf.cond(simple & is_jpeg, jpeg, other)
    if channels == 1:
        return tf.image.rgb_to_grayscale(tf.ensure_shape(pixels, (None, None, 3)))
    return tf.ensure_shape(pixels, (None, None, channels))


def _called_rarely(function):
    """Return a function without arguments that costs nothing in a branch not taken.

    In a branch of `tf.cond` that is not taken, each operation still passes on that it was
    not. A function that TensorFlow does not inline is one operation.
    """
    tf = tensorflow()

    def call():
        if tf.executing_eagerly():
            return function()
        return tf.function(
            function, autograph=False, experimental_attributes={"_noinline": True}
        )()

    return call


def _decoded(content, channels, window, exif):
    """Decode an image of any format.

    Args:
        content: scalar string tensor, the file.
        channels: int, number of channels; 3 channels are returned instead of 1.
        window: as for `decode_pixels`.
        exif: as for `decode_pixels`.
    """
    tf = tensorflow()
    orientation = _orientation(content) if exif else None

    def box(shape):
        if window is None or orientation is None:
            return window and window(shape)
        shape = upright_shape(shape, orientation)
        return encoded_window(window(shape), shape, orientation)

    def jpeg():
        shape = tf.io.extract_jpeg_shape(content)
        file = tf.cond(shape[2] == 4, lambda: _with_adobe(content), lambda: content)
        if channels not in (1, 3):
            good = shape[2] == -1
            file = _asserted(good, file, _channels_differ(shape[2], channels))
        return _decoded_jpeg(file, box(shape))

    def png():
        if channels in (1, 3):
            return tf.io.decode_png(content, 3)
        return _of_channels(tf.io.decode_png(content), channels)

    def other():
        pixels = tf.cond(_is_png(content), png, lambda: _other_format(content, channels))
        return pixels if window is None else _cropped(pixels, box(tf.shape(pixels)))

    pixels = tf.cond(tf.io.is_jpeg(content), jpeg, other)
    if orientation is None:
        return pixels
    turned = functools.partial(upright, pixels, orientation)
    return tf.cond(orientation == 1, lambda: pixels, turned)


def _with_adobe(content):
    """Return a CMYK JPEG that states how its colors are stored; raise for any other."""
    message = "CMYK JPEG without an Adobe marker: save it as RGB."
    return _asserted(has_adobe(content[None])[0], content, message)


def _decoded_jpeg(content, window):
    """Decode a window of a JPEG, or all of it, to color."""
    if window is None:
        return decode_jpeg(content)
    crop = tensorflow().image.decode_and_crop_jpeg
    return crop(content, window, 3, dct_method=_DCT)


def _orientation(content):
    """Return the EXIF orientation of a file, looking for it only if there is EXIF."""
    tf = tensorflow()
    return tf.cond(
        _mentions_exif(content, tf.io.is_jpeg(content)),
        lambda: _traced_once(orientations)(content[None])[0],
        lambda: tf.constant(1),
    )


def _is_png(content):
    return tensorflow().strings.substr(content, 0, len(PNG)) == PNG


def _mentions_exif(content, is_jpeg):
    """Return whether a file may have EXIF."""
    # The search for a text without alternatives is several times as fast.
    return contains(content, tensorflow().where(is_jpeg, "Exif", "(?i)exif"))


def _of_channels(pixels, channels):
    """Return pixels of any number of channels with that which `decode_pixels` decodes."""
    tf = tensorflow()
    if channels in (1, 3):
        return in_color(pixels)
    found = tf.shape(pixels)[-1]
    return _asserted(found == channels, pixels, _channels_differ(found, channels))


def _other_format(content, channels):
    """Decode a file that is neither JPEG nor PNG."""
    tf = tensorflow()
    checks = Checks(*(tensor[0] for tensor in _traced_once(checked)(content[None])))

    def plain():
        good = tf.strings.length(checks.problem) == 0
        pixels = decode_other(_asserted(good, checks.content, checks.problem))
        message = "GIF whose first frame does not fill its screen: save it as PNG."
        pixels = _asserted(whole_screen(checks, pixels), pixels, message)
        return _of_channels(pixels, channels)

    return tf.cond(
        checks.is_other,
        lambda: other_formats.decode(content, channels),
        plain,
    )


def _channels_differ(found, channels):
    """Return an error message about the number of channels of an image."""
    tf = tensorflow()
    text = tf.strings.as_string(found)
    return tf.strings.join(["Image of ", text, f" channels; the model takes {channels}."])


@functools.cache
def _traced_once(function):
    """Return `function` of file contents as a graph that all datasets share.

    Tracing these hundreds of operations takes seconds.
    """
    tf = tensorflow()
    files = tf.TensorSpec((None,), tf.string)
    # Inlined, they would cost as much where they are not needed: in a branch that is not
    # taken, each operation still passes on that it was not.
    return tf.function(
        function,
        input_signature=[files],
        autograph=False,
        experimental_attributes={"_noinline": True},
    )


def decode_jpeg(content):
    """Decode a JPEG to color: libjpeg cannot convert CMYK to grayscale."""
    return tensorflow().io.decode_jpeg(content, 3, dct_method=_DCT)


def decode_other(content):
    """Decode all channels of a PNG, WebP, BMP or GIF: alpha of WebP cannot be dropped."""
    tf = tensorflow()
    pixels = tf.io.decode_image(content, 0, expand_animations=False)
    return tf.ensure_shape(pixels, (None, None, None))


class Checks(NamedTuple):
    """Properties of image files that decide whether TensorFlow decodes them right.

    Attributes:
        content: string, the file that should be decoded.
        problem: string, reason not to decode a file that is not a JPEG, or empty.
        is_other: bool, whether Python decodes the file.
        has_adobe: bool, whether a JPEG states its color space in an Adobe marker.
        is_gif: bool.
        screen: int64, width and height of a GIF's screen.
        frame: int64, left, top, width and height of a GIF's first frame.
    """

    content: Any
    problem: Any
    is_other: Any
    has_adobe: Any
    is_gif: Any
    screen: Any
    frame: Any


def reason(error: Exception) -> str:
    """Return why an image cannot be read, without TensorFlow's operation names.

    Args:
        error: exception raised by TensorFlow or the operating system.

    Returns:
        str, one line that ends with a period.
    """
    message = getattr(error, "message", str(error))
    text = re.sub(r"^\{\{.*?\}\}\s*|\s*\[Op:.*$", "", message, flags=re.DOTALL)
    text = re.sub(r"^assertion failed: \[(.*)\]", r"\1", text.splitlines()[0])
    return f"{text.rstrip('.')}."


def _cropped(pixels, window):
    row, column, height, width = tensorflow().unstack(window)
    return pixels[row : row + height, column : column + width]


def checked(contents):
    """Return the `Checks` of image files, a string tensor `(b,)`, from their headers."""
    tf = tensorflow()
    header = read(contents, tf.zeros_like(contents, tf.int64), 66)
    is_gif = starts(header, b"GIF")
    contents = _without_transparency(contents, is_gif)
    descriptor = _first_descriptor(contents, header, is_gif)
    return Checks(
        contents,
        _problem(header),
        other_formats.is_other(header),
        has_adobe(contents),
        is_gif,
        number(tf.reshape(header[:, 6:10], (-1, 2, 2)), True),
        number(tf.reshape(descriptor[:, 1:], (-1, 4, 2)), True),
    )


def has_adobe(contents):
    """Return whether files contain an Adobe marker, bools `(b,)`."""
    tf = tensorflow()
    return tf.strings.split(contents, _ADOBE, maxsplit=1).row_lengths() > 1


def right_colors(shape, has_adobe):
    """Return False for the shape of a JPEG with four colors and no Adobe marker.

    Without the marker, 255 means full ink to TensorFlow and no ink to Pillow.
    """
    return (shape[2] != 4) | has_adobe


def whole_screen(checks, pixels):
    """Return False for a GIF whose first frame does not fill its screen.

    For such a file TensorFlow returns an image of the size of the largest frame, black
    around the first frame. Pillow returns one of the size of the screen, filled with the
    background color around the first frame.
    """
    tf = tensorflow()
    height, width, _ = tf.unstack(tf.shape(pixels, tf.int64))
    decoded = tf.stack([tf.zeros_like(width), tf.zeros_like(width), width, height])
    whole = tf.reduce_all(checks.frame == decoded)
    return ~checks.is_gif | whole & tf.reduce_all(checks.screen <= decoded[2:])


def in_color(pixels):
    """Convert grayscale or color with or without alpha to color; color is not copied."""
    tf = tensorflow()
    height, width, channels = tf.unstack(tf.shape(pixels))
    pixels = pixels[:, :, : tf.where(channels < 3, 1, 3)]
    return tf.broadcast_to(pixels, (height, width, 3))


def _without_transparency(contents, is_gif):
    """Remove the transparency extension of the first frame of GIFs.

    TensorFlow paints transparent pixels black, while Pillow paints them in their own
    color. Removing the extension has no other effect on the first frame.
    """
    tf = tensorflow()
    # RE2 matches UTF-8 characters, so only \C can match the extension's byte 0xF9.
    extension = r"\x21\C\x04[\x00-\x1f]\C\C\C\x00([\x21\x2c])"
    gifs = tf.where(is_gif, contents, b"")
    gifs = tf.strings.regex_replace(gifs, extension, r"\1", replace_global=False)
    return tf.where(is_gif, gifs, contents)


def _first_descriptor(contents, header, is_gif):
    """Return the first 9 bytes of the first frame's descriptor in GIFs, or zeros.

    The extensions before it end with a zero byte, and the descriptor begins with a comma.
    An extension that happens to contain these two bytes causes the image to be refused.
    """
    tf = tensorflow()
    length = tf.cast(tf.strings.length(contents), tf.int64)
    colors = tf.where(header[:, 10] >= 128, 3 * 2 ** (header[:, 10] % 8 + 1), 0)
    start = tf.minimum(13 + colors, length)
    blocks = tf.strings.substr(contents, start, tf.where(is_gif, length - start, 0))
    before = tf.strings.regex_replace(b"\0" + blocks, r"\x00\x2c\C*$", "")
    position = start + tf.cast(tf.strings.length(before), tf.int64)
    return read(contents, position, 9)


def _problem(header):
    """Return why TensorFlow would crash or decode a file to wrong colors, or "".

    TensorFlow decodes palette indices and 16-bit pixels of BMPs as if they were colors,
    and assumes a header of at least 40 bytes and the color order blue, green, red and
    optionally alpha. Opaque animated WebPs overflow its buffer (TensorFlow 2.21).
    """
    tf = tensorflow()
    compression = number(header[:, 30:34], True)
    plain = (compression == 0) | (compression == 3) & starts(header[:, 54:], _BGR_MASKS)
    plain &= number(header[:, 28:30], True) >= 24  # Bits per pixel.
    bad_bmp = starts(header, b"BM") & ~((number(header[:, 14:18], True) >= 40) & plain)
    is_webp = starts(header, b"RIFF") & starts(header[:, 8:], b"WEBP")
    moves = is_webp & starts(header[:, 12:], b"VP8X") & (header[:, 20] // 2 % 2 == 1)
    return tf.where(
        moves,
        "Animated WebP: save one of its frames.",
        tf.where(
            bad_bmp,
            "BMP with a palette, of 16 bits, compressed, of OS/2, or with its colors in "
            "another order: save it as PNG.",
            "",
        ),
    )


def _asserted(good, value, message):
    """Return the value if `good`, otherwise raise an error with this message."""
    tf = tensorflow()
    # tf.debugging.Assert adds a branch, which is slow to instantiate.
    check = tf.raw_ops.Assert(condition=good, data=[message])
    with tf.control_dependencies([check]):
        return tf.identity(value)
