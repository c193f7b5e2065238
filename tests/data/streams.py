"""Batches of the pipeline, collected and compared."""

import numpy as np

from keras_vit.layers import Preprocessor

PIXELS = Preprocessor(0.0, 1.0)


def collect(batches, steps=None):
    if steps is not None:
        batches = batches.take(steps)
    return [tuple(np.asarray(part) for part in batch) for batch in batches]


def on_threads(batches, threads):
    import tensorflow as tf

    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    return batches.with_options(options)


def assert_same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
