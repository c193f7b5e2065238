"""EXIF orientation of encoded images, in plain TensorFlow operations.

TensorFlow's decoders ignore EXIF, and an exported model cannot call Python to read it.
"""

from keras_vit.data.file_bytes import (
    PNG,
    contains,
    int64,
    is_one_of,
    number,
    read,
    starts,
)
from keras_vit.data.host import tensorflow

_SEGMENTS = 4096  # Largest number of segments of a file that are searched for EXIF.
_ENTRIES = 256  # Largest number of entries of the EXIF directory that are searched.
_ORIENTATION = 0x0112
_EXIF = b"Exif\0\0"
# TIFF types of 2 and 4 bytes. Values up to 8 are the same for signed and unsigned types.
_SHORTS, _LONGS = (3, 8), (4, 9)


def orientations(contents):
    """Return the EXIF orientation of encoded images.

    EXIF is read from JPEG (the first APP1 segment with EXIF), PNG (the chunk eXIf) and
    WebP (the chunk EXIF). As in Pillow, damaged EXIF is treated as missing, and only the
    directory of the main image is used, not that of the thumbnail.

    Args:
        contents: string tensor `(b,)`, image files.

    Returns:
        int32 `(b,)`: EXIF orientations, 1 to 8; 1 (upright) for files without EXIF.

    Reference: Exif 2.32 (CIPA DC-008), section 4.6.4; TIFF 6.0, section 2.
    """
    tf = tensorflow()
    contents = tf.convert_to_tensor(contents)
    kinds = _kinds(contents)
    # Few images have EXIF, and searching for six bytes is faster than walking through
    # the segments of a file.
    return tf.cond(
        tf.reduce_any(kinds["any"]),
        lambda: _orientation(contents, *_exif_segment(contents, kinds)),
        lambda: tf.ones_like(contents, tf.int32),
    )


def upright(pixels, orientation):
    """Rotate and mirror an image according to its EXIF orientation.

    Args:
        pixels: `(h, w, c)`.
        orientation: int32 scalar, 1 to 8.

    Returns:
        `(h, w, c)`, or `(w, h, c)` for orientations 5 to 8; the same pixels as Pillow's
        `ImageOps.exif_transpose`. Upright images are not copied.
    """
    tf = tensorflow()
    # Select operations without tf.cond, because every branch costs a server milliseconds.
    turned, mirrored, flipped = _operations(orientation)
    order = tf.where(turned, (1, 0, 2), (0, 1, 2))
    pixels = tf.transpose(pixels, order)
    return pixels[:: tf.where(flipped, -1, 1), :: tf.where(mirrored, -1, 1)]


def upright_shape(shape, orientation):
    """Return the shape of an image after `upright`, for an image of shape `(h, w, c)`."""
    tf = tensorflow()
    turned, _, _ = _operations(orientation)
    return tf.where(turned, tf.gather(shape, (1, 0, 2)), shape)


def encoded_window(window, shape, orientation):
    """Convert a window of the upright image to a window of the encoded image.

    Args:
        window: int32 `(4,)`: row, column, height and width in the upright image.
        shape: int32 `(3,)`, the shape of the upright image.
        orientation: int32 scalar, 1 to 8.

    Returns:
        int32 `(4,)`: row, column, height and width before `upright`.
    """
    tf = tensorflow()
    turned, mirrored, flipped = _operations(orientation)
    row, column, height, width = tf.unstack(tf.convert_to_tensor(window))
    row = tf.where(flipped, shape[0] - row - height, row)
    column = tf.where(mirrored, shape[1] - column - width, column)
    window = tf.stack([row, column, height, width])
    return tf.where(turned, tf.gather(window, (1, 0, 3, 2)), window)


def _operations(orientation):
    """Return three booleans: transpose first, then mirror columns, then flip rows."""
    turned = orientation >= 5
    mirrored = is_one_of(orientation, (2, 3, 6, 7))
    flipped = is_one_of(orientation, (3, 4, 7, 8))
    return turned, mirrored, flipped


def _orientation(contents, start, end):
    """Return the orientation in the EXIF data at `start` to `end`, or 1 if damaged."""
    tf = tensorflow()
    start += tf.where(starts(read(contents, start, 6), _EXIF), int64(6), int64(0))
    header = read(contents, start, 8)
    little = starts(header, b"II*\0")
    found = (start + 8 <= end) & (little | starts(header, b"MM\0*"))
    directory = start + number(header[:, 4:8], little)
    count = number(read(contents, directory, 2), little)
    entries = read(contents, directory + 2, 12 * _ENTRIES)
    entries = tf.reshape(entries, (-1, _ENTRIES, 12))
    index = tf.range(_ENTRIES, dtype=tf.int64)
    whole = directory[:, None] + 14 + 12 * index <= end[:, None]
    tags = number(entries[:, :, :2], little[:, None])
    matches = (index < count[:, None]) & whole & (tags == _ORIENTATION)
    found &= tf.reduce_any(matches, axis=1)
    first = tf.argmax(tf.cast(matches, tf.uint8), axis=1)
    entry = tf.gather(entries, first, axis=1, batch_dims=1)
    kind, values = number(entry[:, 2:4], little), number(entry[:, 4:8], little)
    short = is_one_of(kind, _SHORTS) & ((values == 1) | (values == 2))
    long = is_one_of(kind, _LONGS) & (values == 1)
    value = tf.where(
        short, number(entry[:, 8:10], little), number(entry[:, 8:12], little)
    )
    good = found & (short | long) & (value >= 1) & (value <= 8)
    return tf.cast(tf.where(good, value, 1), tf.int32)


def _kinds(contents):
    """Return which files may have EXIF: a dict of bools `(b,)` by format, and `any`."""
    tf = tensorflow()
    header = read(contents, tf.zeros_like(contents, tf.int64), 21)
    is_jpeg = starts(header, b"\xff\xd8\xff")
    is_png = starts(header, PNG)
    # Decoders ignore the EXIF chunk unless this flag is set in the header.
    has_flag = starts(header[:, 12:], b"VP8X") & (header[:, 20] // 8 % 2 == 1)
    is_webp = starts(header, b"RIFF") & starts(header[:, 8:], b"WEBP") & has_flag

    has_exif = contains(contents, "(?i)exif")  # Of JPEG and PNG, in their own cases.
    is_jpeg, is_png = is_jpeg & has_exif, is_png & has_exif
    any_kind = is_jpeg | is_png | is_webp
    return {"jpeg": is_jpeg, "png": is_png, "webp": is_webp, "any": any_kind}


def _exif_segment(contents, kinds):
    """Return the start and the end (exclusive) of each file's EXIF, int64 `(b,)`."""
    tf = tensorflow()
    is_jpeg, is_png = kinds["jpeg"], kinds["png"]
    length = tf.cast(tf.strings.length(contents), tf.int64)
    position = tf.where(is_jpeg, int64(2), tf.where(is_png, int64(8), int64(12)))

    def step(position, start, end, active):
        head = read(contents, position, 10)
        # A JPEG segment is 0xFF, a marker and a length that includes its own two bytes.
        # Skip fill bytes, and bytes that do not follow 0xFF; pixels begin at 0xDA.
        size = 2 + tf.maximum(number(head[:, 2:4], False), 2)
        is_segment = (head[:, 0] == 0xFF) & (head[:, 1] != 0xFF)
        size = tf.where(is_segment, size, 1)
        is_exif = is_segment & (head[:, 1] == 0xE1) & starts(head[:, 4:], _EXIF)
        is_end = is_segment & is_one_of(head[:, 1], (0xD9, 0xDA))
        # A PNG chunk begins with length and name, a WebP chunk with name and length.
        data = number(tf.where(is_png[:, None], head[:, :4], head[:, 4:8]), ~is_png)
        chunk = tf.where(is_png, 12 + data, 8 + data + data % 2)
        is_chunk = tf.where(is_png, starts(head[:, 4:], b"eXIf"), starts(head, b"EXIF"))
        size = tf.where(is_jpeg, size, chunk)
        found = active & tf.where(is_jpeg, is_exif, is_chunk)
        start = tf.where(found, position + tf.where(is_jpeg, int64(4), int64(8)), start)
        end = tf.where(found, position + tf.where(is_jpeg, size, 8 + data), end)
        position += size
        active &= ~found & ~(is_jpeg & is_end) & (position < length)
        return position, start, end, active

    _, start, end, _ = tf.while_loop(
        lambda position, start, end, active: tf.reduce_any(active),
        step,
        (position, length, tf.zeros_like(length), kinds["any"]),
        maximum_iterations=_SEGMENTS,
    )
    return start, tf.minimum(end, length)
