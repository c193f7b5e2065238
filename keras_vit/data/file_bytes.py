"""Numbers and tests on the bytes of files, in plain TensorFlow operations."""

from keras_vit.data.host import tensorflow

PNG = b"\x89PNG"  # First bytes of a PNG.


def contains(contents, pattern):
    """Return where files contain a regular expression, a string or scalar tensor."""
    tf = tensorflow()
    # The search of regular expressions is several times faster than that of
    # `tf.strings.split`.
    without = tf.strings.regex_replace(contents, pattern, "", replace_global=False)
    return tf.strings.length(without) < tf.strings.length(contents)


def read(contents, positions, count):
    """Read `count` bytes at each position, int64 `(b, count)`, zeros after the end."""
    tf = tensorflow()
    length = tf.cast(tf.strings.length(contents), tf.int64)
    counts = tf.ones_like(positions) * count
    text = tf.strings.substr(contents, tf.minimum(positions, length), counts)
    return tf.cast(tf.io.decode_raw(text, tf.uint8, fixed_length=count), tf.int64)


def number(data, little_endian):
    """Return the integers that are encoded by the bytes along the last axis, int64."""
    tf = tensorflow()
    powers = [256**i for i in range(data.shape[-1])]
    little = tf.convert_to_tensor(little_endian)[..., None]
    powers = tf.where(little, int64(powers), int64(powers[::-1]))
    return tf.reduce_sum(data * powers, axis=-1)


def starts(data, text):
    """Return True where the bytes along the last axis begin with `text`."""
    tf = tensorflow()
    return tf.reduce_all(data[..., : len(text)] == int64(list(text)), axis=-1)


def is_one_of(values, choices):
    """Return True where a value is one of `choices`, a tuple of ints."""
    tf = tensorflow()
    return tf.reduce_any(values[..., None] == tf.constant(choices, values.dtype), axis=-1)


def int64(value):
    """Return a constant as an int64 tensor."""
    return tensorflow().constant(value, "int64")
