"""TensorFlow as the reader of data: on the host's processors."""

import keras


def tensorflow():
    """TensorFlow, kept off the accelerator where another backend owns it.

    TensorFlow takes a whole GPU when it first uses one, and JAX or PyTorch then find it
    full. All of this package's use of `tf.data` goes through here.

    Returns:
        The module `tensorflow`.

    Raises:
        RuntimeError: TensorFlow already runs on a GPU that another backend needs.
        ImportError: TensorFlow is not installed.

    Example:

    >>> from keras_vit.training.host import tensorflow
    >>> tf = tensorflow()
    >>> int(tf.data.Dataset.range(3).cardinality())
    3
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
