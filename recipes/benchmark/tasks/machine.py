"""Tasks for the speed of the machine: matrix products and reading images."""

import io
from importlib import import_module

import numpy as np

from recipes.benchmark.contestants import torch_device
from recipes.benchmark.timing import median_seconds, seconds

AREA = (0.08, 1.0)  # Smallest and largest fraction of an image that a crop shows.


def matmul(framework, dtype, rows, width, repetitions=20):
    """Prepare to measure the GFLOP/s of `(rows, width) x (width, 4 width)`.

    The product is compiled if the framework can compile.
    """
    generator = np.random.default_rng(0)
    a = generator.standard_normal((rows, width), dtype="float32")
    b = generator.standard_normal((width, 4 * width), dtype="float32")
    run = {"numpy": _numpy, "jax": _jax, "tensorflow": _tensorflow, "torch": _torch}
    product = run[framework](a, b, dtype.removeprefix("mixed_"))
    for _ in range(3):
        product()
    operations = 2 * rows * width * 4 * width
    return lambda: {
        "rate (GFLOP/s)": operations / median_seconds(product, repetitions) / 1e9
    }


def _numpy(a, b, dtype):
    return lambda: a @ b


def _jax(a, b, dtype):
    import jax

    a, b = jax.numpy.asarray(a, dtype), jax.numpy.asarray(b, dtype)
    product = jax.jit(jax.numpy.matmul)
    return lambda: jax.block_until_ready(product(a, b))


def _tensorflow(a, b, dtype):
    import tensorflow as tf

    a, b = tf.cast(a, dtype), tf.cast(b, dtype)
    # Returning a single entry keeps the transfer to the host out of the time.
    product = tf.function(lambda a, b: tf.matmul(a, b)[0, 0])
    return lambda: float(product(a, b))


def _torch(a, b, dtype):
    torch = import_module("torch")

    device = torch_device()
    a, b = (torch.from_numpy(array).to(device, getattr(torch, dtype)) for array in (a, b))
    return lambda: (a @ b)[0, 0].item()


def input_pipeline(reader, image_size, batch=32, count=256):
    """Prepare to measure the images/s that `reader` decodes, crops and resizes.

    The images are JPEGs of 500x375 pixels. The crops are random, and the results are
    batched.
    """
    jpegs = _jpegs(count)
    read = {"tf.data": _tf_data, "pillow": _pillow}[reader](jpegs, image_size, batch)
    read()
    return lambda: {"rate (images/s)": count / seconds(read)}


def _jpegs(count, distinct=16):
    """Return encoded JPEGs of smooth images with a little noise.

    Their size and decoding time resemble those of photographs.
    """
    import tensorflow as tf

    generator = np.random.default_rng(0)
    encoded = []
    for _ in range(distinct):
        coarse = generator.uniform(0, 255, (24, 32, 3))
        image = tf.image.resize(coarse, (375, 500), "bicubic").numpy()
        image = (image + generator.normal(0, 6, image.shape)).clip(0, 255)
        encoded.append(tf.io.encode_jpeg(image.astype("uint8"), quality=90).numpy())
    return [encoded[i % distinct] for i in range(count)]


def crop_and_resize(jpeg, size):
    """Return a random crop of an encoded JPEG, resized to `size`, as tf.data does it."""
    import tensorflow as tf

    begin, window, _ = tf.image.sample_distorted_bounding_box(
        tf.io.extract_jpeg_shape(jpeg),
        tf.zeros((1, 0, 4)),
        area_range=AREA,
        use_image_if_no_bounding_boxes=True,
    )
    window = tf.concat([begin[:2], window[:2]], 0)
    image = tf.image.decode_and_crop_jpeg(jpeg, window, channels=3)
    return tf.image.resize(image, size)


def _tf_data(jpegs, image_size, batch):
    import tensorflow as tf

    size = (image_size, image_size)
    data = tf.data.Dataset.from_tensor_slices(jpegs)
    data = data.map(lambda jpeg: crop_and_resize(jpeg, size), tf.data.AUTOTUNE)
    data = data.batch(batch).prefetch(tf.data.AUTOTUNE)
    return lambda: [None for _ in data]


def _pillow(jpegs, image_size, batch):
    image_module = import_module("PIL.Image")
    generator = np.random.default_rng(0)

    def crop_and_resize(jpeg):
        image = image_module.open(io.BytesIO(jpeg))
        area = generator.uniform(*AREA) * image.width * image.height
        ratio = np.sqrt(generator.uniform(3 / 4, 4 / 3))
        width = min(round(np.sqrt(area) * ratio), image.width)
        height = min(round(np.sqrt(area) / ratio), image.height)
        left = generator.integers(image.width - width + 1)
        top = generator.integers(image.height - height + 1)
        box = tuple(map(int, (left, top, left + width, top + height)))
        size = (image_size, image_size)
        resized = image.resize(size, image_module.Resampling.BILINEAR, box)
        return np.asarray(resized, "float32")

    def read():
        for start in range(0, len(jpegs), batch):
            np.stack([crop_and_resize(jpeg) for jpeg in jpegs[start : start + batch]])

    return read
