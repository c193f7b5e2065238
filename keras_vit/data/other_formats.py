"""Formats that TensorFlow does not read: TIFF, AVIF and HEIC by Pillow, and `.npy`.

They are read in training, evaluation and prediction. Exported models contain no Python,
and refuse them.
"""

import contextlib
import functools
import importlib.util
import io
from collections.abc import Callable

import numpy as np

from keras_vit.data.file_bytes import starts
from keras_vit.data.host import tensorflow

# Arguments of `pip install` for the packages that read these formats.
PACKAGES = {
    ".tif": "keras-vit[train]",
    ".tiff": "keras-vit[train]",
    ".avif": "pillow>=11.3",
    ".heic": "keras-vit[images]",
    ".heif": "keras-vit[images]",
}
# First bytes of TIFF, BigTIFF and `.npy` files.
_NUMPY = b"\x93NUMPY"
STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", _NUMPY)


@functools.cache
def suffixes() -> tuple[str, ...]:
    """Return the suffixes of the formats here that the installed packages read."""
    found = [".npy"]
    if importlib.util.find_spec("PIL"):
        from PIL import features

        found += [".tif", ".tiff"]
        if features.check("avif"):
            found.append(".avif")
        if importlib.util.find_spec("pillow_heif"):
            found += [".heic", ".heif"]
    return tuple(found)


def is_other(header):
    """Return whether files have a format of this module, by their first bytes.

    Args:
        header: int64 tensor `(b, n)`, the first 8 bytes or more of the files.

    Returns:
        bool tensor `(b,)`.
    """
    known = [starts(header, text) for text in STARTS]
    known.append(starts(header[:, 4:], b"ftyp"))  # ISO base media files: AVIF and HEIC.
    return tensorflow().reduce_any(known, axis=0)


def decode(content, channels):
    """Decode a file of these formats inside `tf.data`, through Python.

    Args:
        content: scalar string tensor, the file.
        channels: int; see `decode_pixels`.

    Returns:
        uint8 tensor `(h, w, channels)`, or `(h, w, 3)` if `channels` is 1. Images of
        up to 4 channels are upright, since Pillow turns most of these formats itself;
        TIFFs with more channels are as they are stored.

    Raises:
        tensorflow.errors.InvalidArgumentError: at run time: the file cannot be read.
    """
    tf = tensorflow()
    decoded = _decoded_channels(channels)

    def run(content):
        try:
            # Outside of graphs, TensorFlow passes an array instead of bytes.
            content = np.asarray(content, object).item()
            return _pixels(content, channels), b""
        # Pillow raises errors of many types for damaged files.
        except Exception as error:
            text = str(error).splitlines()
            nothing = np.zeros((0, 0, decoded), "uint8")
            return nothing, (text[0] if text else type(error).__name__).encode()

    pixels, problem = tf.numpy_function(run, [content], [tf.uint8, tf.string])
    check = tf.raw_ops.Assert(condition=tf.strings.length(problem) == 0, data=[problem])
    with tf.control_dependencies([check]):
        return tf.ensure_shape(tf.identity(pixels), (None, None, decoded))


def size(file) -> tuple[int, int]:
    """Return the width and height of an image file of any format, from its header.

    Args:
        file: path, or binary file object.

    Raises:
        OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError: the file is
            not an image.
    """
    from PIL import Image

    if isinstance(file, str) and file.lower().endswith(".npy"):
        try:
            height, width = np.load(file, mmap_mode="r").shape[:2]
        except EOFError as error:
            raise ValueError(f"{file} is empty.") from error
        return width, height
    _register_heif()
    with Image.open(file) as image:
        return image.size


def _pixels(content, channels):
    if content.startswith(_NUMPY):
        pixels = _array(content)
    elif channels > 4:
        pixels = _bands(content, channels)
    else:
        pixels = _opened(content, channels)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    pixels = _as_bytes(pixels)
    if channels in (1, 3) and pixels.shape[-1] == 1:
        pixels = np.repeat(pixels, 3, axis=-1)
    if pixels.ndim != 3 or pixels.shape[-1] != _decoded_channels(channels):
        raise ValueError(
            f"Image of shape {pixels.shape}; the model takes images of {channels} "
            "channels, (h, w, channels)."
        )
    return np.ascontiguousarray(pixels)


def _array(content):
    return np.load(io.BytesIO(content), allow_pickle=False)


def _decoded_channels(channels):
    """Return the number of channels to decode; `decode_pixels` makes 1 out of 3."""
    return 3 if channels == 1 else channels


def _opened(content, channels):
    """Return the pixels of a file that Pillow reads."""
    from PIL import Image, ImageOps

    _register_heif()
    with Image.open(io.BytesIO(content)) as image:
        image = ImageOps.exif_transpose(image)
        # Pillow clips values above 255 when it converts images of 16 or 32 bits.
        if image.mode[0] in "IF":
            return np.asarray(image)
        return np.asarray(image.convert({2: "LA", 4: "RGBA"}.get(channels, "RGB")))


def _bands(content, channels):
    """Return the pixels of a TIFF with any number of bands."""
    if importlib.util.find_spec("tifffile") is None:
        raise ValueError(
            "TIFF with more than 4 channels: pip install 'keras-vit[images]'."
        )
    import tifffile

    pixels = tifffile.imread(io.BytesIO(content))
    # Bands may be stored one after the other.
    if pixels.ndim == 3 and pixels.shape[-1] != channels == pixels.shape[0]:
        pixels = np.moveaxis(pixels, 0, -1)
    return pixels


def _as_bytes(pixels):
    """Convert 16-bit values to 8 bits as `decode_pixels` does; refuse other types."""
    if pixels.dtype == np.uint8:
        return pixels
    if _has_16_bits(pixels):
        return (pixels >> 8).astype("uint8")
    raise ValueError(
        f"Values of type {pixels.dtype}: scale them to 0 to 255 and save them as uint8, "
        "or to 0 to 65535 and save them as uint16."
    )


def _has_16_bits(pixels):
    return (pixels.dtype.kind, pixels.dtype.itemsize) == ("u", 2)


def brightest_of_16_bits(content: bytes) -> int | None:
    """Return the largest value of a file of these formats, or None without 16 bits.

    Args:
        content: contents of the file.
    """
    read: Callable[[], np.ndarray]
    for read in (
        functools.partial(_array, content),
        functools.partial(_opened, content, 3),
        functools.partial(_bands, content, None),
    ):
        # Each of them raises errors of many types for files of other formats.
        with contextlib.suppress(Exception):
            pixels = read()
            return int(pixels.max()) if _has_16_bits(pixels) and pixels.size else None
    return None


@functools.cache
def _register_heif():
    if importlib.util.find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
