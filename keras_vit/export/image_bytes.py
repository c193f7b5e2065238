"""Decoding and preprocessing of image files in a TensorFlow graph, with error codes."""

import tensorflow as tf

from keras_vit.data.decoding import (
    Checks,
    checked,
    decode_jpeg,
    decode_other,
    in_color,
    right_colors,
    whole_screen,
)
from keras_vit.data.exif import orientations, upright
from keras_vit.data.file_bytes import PNG
from keras_vit.layers.preprocessor import RESIZES

# Codes of the output `error`.
FINE, UNREADABLE, TOO_LARGE, WRONG_SIZE = range(4)

_HEADER = 30  # Bytes needed to read the image size from a header of any format.
_AT_ONCE = 4  # Number of images decoded in parallel.


def read_images(contents, preprocessor, input_shape, max_pixels, exif=True):
    """Decode and preprocess a batch of encoded images.

    An image that cannot be read gets an error code; the rest of the batch is unaffected.

    Args:
        contents: string tensor `(b,)`.
        preprocessor: a `keras_vit.layers.Preprocessor`.
        input_shape: `(height, width, channels)` that the preprocessor must return.
        max_pixels: int, upper limit of `largest_size`.
        exif: bool, whether to apply the EXIF orientation of the images.

    Returns:
        Tuple of the images, float32 `(b, height, width, channels)`; their error codes,
        int32 `(b,)`, where a nonzero code means that the image must be ignored; and the
        EXIF orientations that were applied, int32 `(b,)`.
    """
    count = tf.size(contents)
    applied = orientations(contents) if exif else tf.ones([count], tf.int32)
    checks, is_jpeg, decoded = _decoded(contents, max_pixels)
    iterator = iter(decoded)

    def read(image, images, errors):
        index, small, jpeg, other = image.get_value()
        pixels = tf.cond(is_jpeg[index], lambda: jpeg, lambda: in_color(other))
        file = Checks(*(tensor[index] for tensor in checks))
        whole = whole_screen(file, pixels)
        if exif:
            pixels = upright(pixels, applied[index])
        pixels = tf.ensure_shape(pixels, (None, None, 3))
        if input_shape[2] == 1:
            pixels = tf.image.rgb_to_grayscale(pixels)
        pixels, error = _limited(pixels, small, preprocessor, input_shape, max_pixels)
        error = tf.where(whole, error, UNREADABLE)
        pixels = _preprocessed(preprocessor, pixels)
        images = images.write(index, tf.ensure_shape(pixels, input_shape))
        errors = errors.write(index, error - UNREADABLE)
        return iterator.get_next_as_optional(), images, errors

    # What is never written, for images that were skipped, is 0.
    images = tf.TensorArray(tf.float32, count, element_shape=input_shape)
    errors = tf.TensorArray(tf.int32, count, element_shape=())
    _, images, errors = tf.while_loop(
        lambda image, *_: image.has_value(),
        read,
        (iterator.get_next_as_optional(), images, errors),
        parallel_iterations=_AT_ONCE,
    )
    return images.stack(), errors.stack() + UNREADABLE, applied


def _decoded(contents, max_pixels):
    """Return the checks of image files, which are JPEGs, and a dataset of their pixels.

    The dataset skips files that cannot be decoded: only a dataset can continue after an
    operation has failed. It has the index of each file, whether the file has at most
    `max_pixels`, and its pixels if it is a JPEG and if it is not.
    """
    checks = checked(contents)
    is_jpeg, is_other, areas = _headers(contents)
    with tf.init_scope():
        blank = tf.io.encode_jpeg(tf.zeros((1, 1, 3), tf.uint8)).numpy()

    # A server instantiates this function for every request, which costs 0.2 ms for each
    # operation and milliseconds for each branch. Everything else happens outside, and
    # both decoders run, one of them on a single pixel.
    def decode(index, content, is_jpeg, area, has_adobe):
        shape = tf.io.extract_jpeg_shape(tf.where(is_jpeg, content, blank), tf.int64)
        # Check the size before decoding: a small file can declare gigabytes of pixels.
        small = tf.where(is_jpeg, shape[0] * shape[1], area) <= max_pixels
        content = tf.where(right_colors(shape, has_adobe), content, b"")  # Fails.
        content = tf.where(small, content, blank)
        jpeg = decode_jpeg(tf.where(is_jpeg, content, blank))
        return index, small, jpeg, decode_other(tf.where(is_jpeg, blank, content))

    known = is_jpeg | is_other & (checks.problem == "")
    count = tf.size(contents)
    inputs = (tf.range(count), checks.content, is_jpeg, areas, checks.has_adobe)
    data = tf.data.Dataset.from_tensor_slices(
        tuple(tf.boolean_mask(tensor, known) for tensor in inputs)
    )
    data = data.map(decode, num_parallel_calls=_AT_ONCE).ignore_errors()
    options = tf.data.Options()
    # Disable optimization and autotuning, which would run again for every request.
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    return checks, is_jpeg, data.with_options(options)


def _limited(pixels, small, preprocessor, input_shape, max_pixels):
    """Return pixels that can be preprocessed, and the error code of their size.

    Images that are refused are replaced by a part of them.
    """
    height, width, _ = tf.unstack(tf.shape(pixels))
    # A GIF's frames can exceed the size in its header.
    small &= largest_size(preprocessor, height, width) <= max_pixels
    pixels = pixels[: tf.where(small, height, 1), : tf.where(small, width, 1)]
    error = tf.where(small, FINE, TOO_LARGE)
    if preprocessor.image_size is None:
        right = tf.reduce_all(tf.shape(pixels) == input_shape)
        error = tf.where(small & ~right, WRONG_SIZE, error)
        pixels = tf.image.resize(pixels, input_shape[:2], "nearest")
    return pixels, error


def _preprocessed(preprocessor, pixels):
    """Return `preprocessor(pixels)` for one uint8 image.

    The preprocessor would first convert the whole image to float32, four times its size.
    TensorFlow's resize kernels read uint8 and compute the same float32 values.
    """
    if preprocessor.image_size is None:
        return preprocessor(pixels)
    interpolation, antialias = RESIZES[preprocessor.resize]
    pixels = preprocessor.cropped(pixels)
    size, start = preprocessor.resize_and_crop(*tf.unstack(tf.shape(pixels)[:2]))
    image = tf.image.resize(pixels, tf.stack(size), interpolation, antialias=antialias)
    if interpolation == "bicubic":
        image = tf.clip_by_value(image, 0.0, 255.0)
    height, width = preprocessor.image_size
    image = image[start[0] : start[0] + height, start[1] : start[1] + width]
    return preprocessor.with_image_size(None)(image)


def largest_size(preprocessor, height, width):
    """Return the largest number of pixels that an image reaches during preprocessing.

    The result is a float tensor: the size of the image itself or, if larger, its size
    after the resize that precedes a crop. That resize scales the short side to the
    length that the crop needs, and the long side of a narrow image grows with it. The
    result for an image without pixels is infinite or NaN.
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
    """Parse the headers of image files.

    Returns:
        Tuple of three tensors of shape `(b,)`: whether each file is a JPEG; whether it
        is a PNG, WebP, GIF or BMP; and the number of pixels that its header declares,
        int64, which is 0 for JPEG and BMP.
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
        # The pixels of an uncompressed BMP take no more memory than its file.
        "bmp": tf.zeros_like(bits),
    }
    kinds = {
        "png": starts(0, PNG),
        "lossy": webp & starts(12, b"VP8 "),
        "lossless": webp & starts(12, b"VP8L"),
        "extended": webp & starts(12, b"VP8X"),
        "gif": starts(0, b"GIF8"),
        "bmp": starts(0, b"BM"),
    }
    area = sum(tf.where(kinds[name], areas[name], 0) for name in kinds)
    is_other = tf.reduce_any(tf.stack(list(kinds.values())), axis=0)
    return starts(0, b"\xff\xd8\xff"), is_other, area
