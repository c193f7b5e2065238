"""Import of TensorFlow for data pipelines, beside any backend."""

import functools

import keras


def tensorflow():
    """Import TensorFlow, and hide the GPUs from it if another backend uses them.

    TensorFlow reserves the whole memory of a GPU when it first uses it, which leaves none
    for JAX or PyTorch. All uses of `tf.data` in this package import TensorFlow by this
    function.

    Returns:
        The module `tensorflow`.

    Raises:
        RuntimeError: TensorFlow already uses a GPU that another backend needs.
        ImportError: TensorFlow is not installed.
    """
    import tensorflow as tf

    if keras.backend.backend() != "tensorflow":
        try:
            tf.config.set_visible_devices([], "GPU")
        except RuntimeError as error:
            raise RuntimeError(
                f"TensorFlow runs on a GPU that the backend {keras.backend.backend()!r} "
                "needs. Open data sources before anything else uses TensorFlow, or call "
                "tf.config.set_visible_devices([], 'GPU') right after importing it."
            ) from error
    return tf


@functools.lru_cache(maxsize=64)
def compiled(function):
    """Return a function of tensors that XLA compiles, the same one for every caller.

    A chain of TensorFlow operations passes over the pixels once for each of them, and
    XLA makes one pass of it. Compilation takes seconds, once for each shape.
    """
    return tensorflow().function(function, autograph=False, jit_compile=True)
