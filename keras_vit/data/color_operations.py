"""Operations on the colors of images, as Pillow computes them.

An operation that changes each value on its own also applies to `all_values`. The result
is a table, from which `look_up` takes the new values of an image in one pass.
"""

from keras_vit.data.host import tensorflow


def all_values(channels):
    """Return the 256 values of each channel, uint8 `(256, channels)`."""
    tf = tensorflow()
    return tf.tile(tf.cast(tf.range(256), "uint8")[:, None], (1, channels))


def look_up(table, image):
    """Replace the values of a uint8 image by those of a table, `(256, channels)`.

    Example:

    >>> from keras_vit.data.color_operations import all_values, look_up, solarize
    >>> look_up(solarize(all_values(1), 200), [[[7], [255]]]).numpy().ravel().tolist()
    [7, 0]
    """
    tf = tensorflow()
    channels = table.shape[-1]
    index = tf.cast(image, "int32") * channels + tf.range(channels)
    return tf.gather(tf.reshape(table, (-1,)), index)


def histogram(image):
    """Count the values of each channel of a uint8 image: int32, `(256, channels)`."""
    tf = tensorflow()
    channels = image.shape[-1]
    index = tf.cast(image, "int32") * channels + tf.range(channels)
    index = tf.reshape(index, (-1, 1))
    counts = tf.zeros(256 * channels, "int32")
    counts = tf.tensor_scatter_nd_add(counts, index, tf.ones_like(index[:, 0]))
    return tf.reshape(counts, (256, channels))


def autocontrast(image):
    """Stretch each channel of a uint8 image to 0 to 255, as in `PIL.ImageOps`."""
    return look_up(autocontrast_table(histogram(image)), image)


def autocontrast_table(counts):
    """Return the table of `autocontrast` for an image with this histogram."""
    tf = tensorflow()
    low, high = _extremes(counts)
    # Use double precision like Pillow: the truncation below exposes the last bit.
    scale = 255.0 / tf.cast(tf.maximum(high - low, 1), "float64")
    values = tf.range(256, dtype="float64")[:, None]
    table = product(values, scale) - product(tf.cast(low, "float64"), scale)
    table = tf.cast(tf.clip_by_value(table, 0.0, 255.0), "uint8")
    return tf.where(high > low, table, all_values(counts.shape[-1]))


def equalize(image):
    """Equalize the histogram of each channel of a uint8 image, as in `PIL.ImageOps`."""
    return look_up(equalize_table(histogram(image)), image)


def equalize_table(counts):
    """Return the table of `equalize` for an image with this histogram."""
    tf = tensorflow()
    values = tf.range(256)[:, None]
    _, brightest = _extremes(counts)
    last = tf.reduce_sum(tf.where(values == brightest, counts, 0), 0)
    step = (tf.reduce_sum(counts, 0) - last) // 255
    safe = tf.maximum(step, 1)
    table = (tf.cumsum(counts, 0, exclusive=True) + safe // 2) // safe
    return tf.cast(tf.where(step > 0, tf.minimum(table, 255), values), "uint8")


def _extremes(counts):
    """Return the lowest and the highest value in each channel, int32 `(channels,)`."""
    tf = tensorflow()
    values = tf.range(256)[:, None]
    low = tf.reduce_min(tf.where(counts > 0, values, 255), 0)
    return low, tf.reduce_max(tf.where(counts > 0, values, 0), 0)


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
    return blend(0.0, image, factor)


def contrast(image, factor, mean=None):
    """Blend a uniform gray with a uint8 image by `factor`, as in `PIL.ImageEnhance`.

    The gray level is `mean`, or by default the rounded mean of the grayscale image.
    """
    return blend(gray_mean(image) if mean is None else mean, image, factor)


def gray_mean(image):
    """Return the rounded mean of the grayscale image, a float32 scalar."""
    tf = tensorflow()
    grey = gray(image)
    # The sum of each row fits into 32 bits, in which it is several times as fast.
    total = tf.reduce_sum(tf.cast(tf.reduce_sum(grey, (1, 2)), "int64"))
    pixels = tf.size(grey, tf.int64)
    return tf.cast((2 * total + pixels) // (2 * pixels), "float32")


def color(image, factor):
    """Blend the grayscale image with the uint8 image, as in `PIL.ImageEnhance`."""
    tf = tensorflow()
    return blend(tf.cast(gray(image), "float32"), image, factor)


def gray(image):
    """Return an image in grayscale, as Pillow's mode "L": int32, `(h, w, 1)`."""
    tf = tensorflow()
    weighted = tf.cast(image, "int32") * tf.constant([19595, 38470, 7471])
    return (tf.reduce_sum(weighted, -1, keepdims=True) + 32768) // 65536


def blend(degenerate, image, factor):
    """Return `degenerate + factor * (image - degenerate)`, clipped and truncated."""
    tf = tensorflow()
    difference = tf.cast(image, "float32") - degenerate
    values = degenerate + product(factor, difference)
    return tf.cast(tf.clip_by_value(values, 0.0, 255.0), "uint8")


def product(first, second):
    """Multiply such that the product is rounded before it is added to anything.

    XLA uses instructions that multiply, add and then round once. Pillow rounds twice,
    and its truncation exposes the last bit. XLA cannot see that no product reaches the
    bounds, and clips it in between.
    """
    return tensorflow().clip_by_value(first * second, -1e6, 1e6)
