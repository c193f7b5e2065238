"""Encoded images to what a model takes, in a TensorFlow graph; each fails alone."""

import tensorflow as tf

from keras_vit.layers.preprocessor import RESIZES
from keras_vit.training.decoding import decode_oriented
from keras_vit.training.exif import orientations

# Codes of the output `error`.
FINE, UNREADABLE, TOO_LARGE, WRONG_SIZE = range(4)

_HEADER = 30  # Bytes; the longest that tells a size.
_AT_ONCE = 4  # Images decoded at a time.


def read_images(contents, preprocessor, input_shape, max_pixels, exif=True):
    """Decodes and preprocesses a batch of encoded images.

    Args:
        contents: string tensor `(b,)`.
        preprocessor: a `keras_vit.layers.Preprocessor`.
        input_shape: `(height, width, channels)` that the preprocessor must give.
        max_pixels: int, see `largest_size`.
        exif: bool, whether to turn images upright as their EXIF orientation asks for.

    Returns:
        Images, float32 `(b, height, width, channels)`; error codes, int32 `(b,)`: where
        one is not 0, the image means nothing; and the orientations that were applied,
        int32 `(b,)`, as EXIF numbers them.
    """
    resizes = preprocessor.image_size is not None
    with tf.init_scope():
        blank = tf.io.encode_jpeg(tf.zeros((1, 1, 3), tf.uint8)).numpy()

    # No branches: a server makes this function anew for every request, and each costs
    # milliseconds. What is refused is replaced by one pixel.
    def read(index, content, is_jpeg, area, orientation):
        shape = tf.io.extract_jpeg_shape(tf.where(is_jpeg, content, blank), tf.int64)
        # Before anything is decoded: a small file can declare gigabytes.
        small = tf.where(is_jpeg, shape[0] * shape[1], area) <= max_pixels
        content = tf.where(small, content, blank)
        pixels = decode_oriented(content, orientation if exif else None, input_shape[2])
        # Once more: a GIF's header may say less than its frames have.
        height, width, _ = tf.unstack(tf.shape(pixels))
        small &= largest_size(preprocessor, height, width) <= max_pixels
        pixels = pixels[: tf.where(small, height, 1), : tf.where(small, width, 1)]
        error = tf.where(small, FINE, TOO_LARGE)
        if not resizes:
            right = tf.reduce_all(tf.shape(pixels) == input_shape)
            error = tf.where(small & ~right, WRONG_SIZE, error)
            pixels = tf.image.resize(pixels, input_shape[:2], "nearest")
        image = _preprocessed(preprocessor, pixels)
        return index, tf.ensure_shape(image, input_shape), error

    is_jpeg, is_other, areas = _headers(contents)
    count = tf.size(contents)
    applied = orientations(contents) if exif else tf.ones([count], tf.int32)
    inputs = (tf.range(count), contents, is_jpeg, areas, applied)
    known = is_jpeg | is_other
    inputs = tuple(tf.boolean_mask(tensor, known) for tensor in inputs)
    # A dataset, because only that goes on after an operation has failed.
    data = tf.data.Dataset.from_tensor_slices(inputs)
    data = data.map(read, num_parallel_calls=_AT_ONCE).ignore_errors()
    options = tf.data.Options()
    # They would optimise and tune anew for every request.
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    data = data.batch(tf.cast(tf.maximum(count, 1), tf.int64)).with_options(options)
    none = (
        tf.zeros((0,), tf.int32),
        tf.zeros((0, *input_shape)),
        tf.zeros((0,), tf.int32),
    )
    indices, images, errors = data.reduce(none, lambda _, batch: batch)
    indices = indices[:, None]
    all_images = tf.scatter_nd(indices, images, [count, *input_shape])
    all_errors = tf.fill([count], UNREADABLE)
    all_errors = tf.tensor_scatter_nd_update(all_errors, indices, errors)
    return all_images, all_errors, applied


def _preprocessed(preprocessor, pixels):
    """Return `preprocessor(pixels)` of one image in uint8.

    The preprocessor would first make the whole image float32, four times its size.
    TensorFlow's kernels for resizing read uint8 and compute the same float32 values.
    """
    if preprocessor.image_size is None:
        return preprocessor(pixels)
    interpolation, antialias = RESIZES[preprocessor.resize]
    size, start = preprocessor.resize_and_crop(*tf.unstack(tf.shape(pixels)[:2]))
    image = tf.image.resize(pixels, tf.stack(size), interpolation, antialias=antialias)
    if interpolation == "bicubic":
        image = tf.clip_by_value(image, 0.0, 255.0)
    height, width = preprocessor.image_size
    image = image[start[0] : start[0] + height, start[1] : start[1] + width]
    return preprocessor.with_image_size(None)(image)


def largest_size(preprocessor, height, width):
    """Pixels that an image has at its largest: as it comes, or resized before the crop.

    A float tensor. Where the preprocessor crops, it first makes the short side of the
    image as long as needed, and the long side of a narrow one grows with it; for an
    image without pixels this is infinite or NaN.
    """
    height, width = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    if preprocessor.crop_fraction is None:
        return height * width
    rows, columns = (
        side / preprocessor.crop_fraction for side in preprocessor.image_size
    )
    longer = tf.maximum(columns**2 * height / width, rows**2 * width / height)
    return tf.maximum(height * width, longer)


def _headers(contents):
    """What files say that they are.

    Returns whether they are JPEGs, whether PNG, WebP, GIF or BMP, and for all but JPEG
    and BMP the pixels that they declare, int64; all of shape `(b,)`.
    """
    padded = tf.strings.substr(contents, 0, _HEADER) + b"\0" * _HEADER
    header = tf.strings.substr(padded, 0, _HEADER)
    data = tf.cast(tf.io.decode_raw(header, tf.uint8, fixed_length=_HEADER), tf.int64)

    def starts(position, text):
        return tf.strings.substr(header, position, len(text)) == text

    def number(position, width, big_endian=False):
        powers = [256**i for i in range(width)]
        powers = tf.constant(powers[::-1] if big_endian else powers, tf.int64)
        return tf.reduce_sum(data[:, position : position + width] * powers, axis=1)

    webp = starts(0, b"RIFF") & starts(8, b"WEBP")
    bits = number(21, 4)
    areas = {
        "png": number(16, 4, big_endian=True) * number(20, 4, big_endian=True),
        "lossy": (number(26, 2) % 2**14) * (number(28, 2) % 2**14),
        "lossless": (bits % 2**14 + 1) * (bits // 2**14 % 2**14 + 1),
        "extended": (number(24, 3) + 1) * (number(27, 3) + 1),
        "gif": number(6, 2) * number(8, 2),
        # A BMP is as large as its file.
        "bmp": tf.zeros_like(bits),
    }
    kinds = {
        "png": starts(0, b"\x89PNG"),
        "lossy": webp & starts(12, b"VP8 "),
        "lossless": webp & starts(12, b"VP8L"),
        "extended": webp & starts(12, b"VP8X"),
        "gif": starts(0, b"GIF8"),
        "bmp": starts(0, b"BM"),
    }
    area = sum(tf.where(kinds[name], areas[name], 0) for name in kinds)
    is_other = tf.reduce_any(tf.stack(list(kinds.values())), axis=0)
    return starts(0, b"\xff\xd8\xff"), is_other, area
