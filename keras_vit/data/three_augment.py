"""3-Augment of DeiT III: gray, solarized or blurred images, as Pillow computes them."""

from keras_vit.data.color_operations import gray, solarize
from keras_vit.data.host import compiled, tensorflow

# Range of the standard deviation of the blur in pixels.
BLUR = (0.1, 2.0)
# Pillow applies three box blurs along each axis.
_PASSES = 3


def three_augmented(image, seed):
    """Make an image gray, solarize it or blur it, each with a probability of a third.

    Args:
        image: uint8, `(h, w, 3)`.
        seed: int32 or int64, `(2,)`.

    Returns:
        uint8, `(h, w, 3)`.

    Reference: DeiT III (arXiv:2204.07118) section 3 and its `augment.py`. Solarizing
    inverts values from 128 up, and the standard deviation of the blur is uniform between
    0.1 and 2 pixels.
    """
    drawn = tensorflow().random.stateless_uniform((2,), seed)
    return compiled(_one_of_three)(image, drawn)


def _one_of_three(image, drawn):
    """Apply the operation that the first number chooses; the second one is the blur."""
    tf = tensorflow()
    sigma = BLUR[0] + (BLUR[1] - BLUR[0]) * drawn[1]
    operations = [
        lambda: tf.repeat(tf.cast(gray(image), "uint8"), 3, axis=-1),
        lambda: solarize(image, 128),
        lambda: gaussian_blur(image, sigma),
    ]
    index = tf.minimum(tf.cast(drawn[0] * len(operations), "int32"), len(operations) - 1)
    return tf.ensure_shape(tf.switch_case(index, operations), image.shape)


def gaussian_blur(image, sigma):
    """Blur a uint8 image like Pillow's `ImageFilter.GaussianBlur`.

    Args:
        image: uint8, `(h, w, c)`.
        sigma: float scalar, standard deviation in pixels, above 0 and at most 2.

    Returns:
        uint8, `(h, w, c)`.

    Reference: Pillow's `BoxBlur.c`: three box blurs along each axis, whose width is
    fractional, with rounded results (Gwosdek et al., SSVM 2011). Borders are repeated.
    """
    tf = tensorflow()
    weights = _box_weights(sigma)
    values = tf.cast(image, "int64")
    for axis in (1, 0):
        for _ in range(_PASSES):
            values = _box_blur(values, weights, axis)
    return tf.cast(values, "uint8")


def _box_weights(sigma):
    """Return the weights of a box blur of 5 pixels, int64 multiples of 2 ** -24."""
    tf = tensorflow()
    # Pillow computes the radius in float32 and truncates the weights.
    variance = tf.cast(sigma, "float32") ** 2 / _PASSES
    length = tf.sqrt(12.0 * variance + 1.0)
    whole = tf.floor((length - 1.0) / 2.0)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance)
    part = part / (6 * (variance - (whole + 1) * (whole + 1)))
    radius = whole + part
    inner = tf.cast(2.0**24 / (radius * 2 + 1), "int64")
    whole = tf.cast(radius, "int64")
    outer = (2**24 - (whole * 2 + 1) * inner) // 2
    zero = tf.zeros_like(inner)
    near = tf.where(whole > 0, inner, outer)
    far = tf.where(whole > 0, outer, zero)
    return tf.stack([far, near, inner, near, far])


def _box_blur(values, weights, axis):
    tf = tensorflow()
    size = tf.shape(values)[axis]
    total = tf.zeros_like(values)
    for index, weight in enumerate(tf.unstack(weights)):
        # Repeat the border.
        places = tf.clip_by_value(tf.range(size) + (index - 2), 0, size - 1)
        total += weight * tf.gather(values, places, axis=axis)
    return (total + 2**23) // 2**24
