"""Encoded images to pixels: the same for training, evaluation and export."""

from keras_vit.training.host import tensorflow

# Pillow's, at the same speed; TensorFlow's own choice is one grey level off on average.
_DCT = "INTEGER_ACCURATE"


def decode_pixels(content, channels, window=None):
    """Decodes one image, inside `tf.data` or any other graph of TensorFlow.

    JPEG, PNG, BMP, WebP and the first frame of GIF; what else `tf.io.decode_image` reads.
    Colours become grey and grey becomes colours as `channels` wants; an alpha channel is
    dropped, 16 bits become 8. A rotation that EXIF asks for is not done.

    Args:
        content: scalar string tensor, the file; or pixels, which are left as they are.
        channels: int, 1 or 3.
        window: None for all pixels, or a function from the image's shape `(h, w, c)`
            to the part wanted, `(row, column, height, width)`, an int tensor.

    Returns:
        Tensor of shape `(h, w, channels)`, uint8, values 0 to 255; the pixels that
        Pillow reads (for grey from colours within 1).

    Raises:
        tensorflow.errors.InvalidArgumentError: when it runs: the file is damaged or no
            image, or a BMP with a palette, whose indices TensorFlow takes for colours.

    Example:

    >>> import tensorflow as tf
    >>> from keras_vit.training.decoding import decode_pixels
    >>> png = tf.io.encode_png(tf.fill((2, 3, 1), tf.constant(7, "uint8")))
    >>> decode_pixels(png, 3)[0, 0].numpy().tolist()
    [7, 7, 7]
    """
    tf = tensorflow()

    def cropped(pixels):
        if window is None:
            return pixels
        row, column, height, width = tf.unstack(window(tf.shape(pixels)))
        return pixels[row : row + height, column : column + width]

    if content.dtype != tf.string:
        return cropped(content)

    # In colour first: libjpeg makes no grey from CMYK.
    def jpeg():
        if window is None:
            return tf.io.decode_jpeg(content, 3, dct_method=_DCT)
        box = window(tf.io.extract_jpeg_shape(content))
        return tf.image.decode_and_crop_jpeg(content, box, 3, dct_method=_DCT)

    def other():
        with tf.control_dependencies([_no_palette(content)]):
            pixels = tf.io.decode_image(content, 3, expand_animations=False)
        return cropped(tf.ensure_shape(pixels, (None, None, 3)))

    pixels = tf.cond(tf.io.is_jpeg(content), jpeg, other)
    pixels = tf.ensure_shape(pixels, (None, None, 3))
    return pixels if channels == 3 else tf.image.rgb_to_grayscale(pixels)


def _no_palette(content):
    """Refuses BMPs of less than 24 bits a pixel."""
    tf = tensorflow()
    header = tf.strings.substr(content, 0, 30) + b"\0" * 30
    bits = tf.io.decode_raw(tf.strings.substr(header, 28, 2), tf.uint16)[0]
    good = (tf.strings.substr(header, 0, 2) != b"BM") | (bits >= 24)
    # tf.debugging's would put it into a branch, which servers pay for in milliseconds.
    message = "BMP with a palette; save it as PNG."
    return tf.raw_ops.Assert(condition=good, data=[message])
