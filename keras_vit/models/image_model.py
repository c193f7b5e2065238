"""What models of images share: bad images are refused before anything is computed."""

import contextlib

import keras

from keras_vit.models.argument_names import check_argument_names


class ImageModel(keras.Model):
    """A functional model of images that checks what it is given.

    Keras would add or drop axes and turn integers into floats in silence. And under JAX
    an error inside a step of `fit` or `predict` costs the model its weights, which the
    step has taken: so the methods that run steps look at their data first.

    A subclass makes its graph, calls the constructor with `inputs` and `outputs`, and
    has `input_shape` `(None, height, width, channels)`.
    """

    # Here and not in a subclass, whose signature would be this one.
    def __new__(cls, *args, **kwargs):
        check_argument_names(cls, kwargs)
        return super().__new__(cls, *args, **kwargs)

    def __call__(self, inputs, *args, **kwargs):
        self._check_data(inputs)
        return super().__call__(inputs, *args, **kwargs)

    # `training` by its name: Keras looks for it here, and without it no layer below
    # would ever learn that it is training.
    def call(self, inputs, training=None, mask=None):
        # The steps of Keras's JAX trainer come here without `__call__`.
        self._check_data(inputs)
        return super().call(inputs, training=training, mask=mask)

    def fit(self, x=None, *args, **kwargs):
        self._check_data(x)
        if kwargs.get("validation_data") is not None:
            self._check_data(kwargs["validation_data"])
        return super().fit(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        self._check_data(x)
        return super().evaluate(x, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        self._check_data(x)
        return super().predict(x, *args, **kwargs)

    def train_on_batch(self, x, *args, **kwargs):
        self._check_data(x)
        return super().train_on_batch(x, *args, **kwargs)

    def test_on_batch(self, x, *args, **kwargs):
        self._check_data(x)
        return super().test_on_batch(x, *args, **kwargs)

    def predict_on_batch(self, x):
        self._check_data(x)
        return super().predict_on_batch(x)

    def make_train_function(self, force=False):
        # Under TensorFlow the first step would make the optimizer's variables while it
        # is traced, which has it traced a second time: half of what the first step of
        # a large model takes.
        if self.optimizer is not None and not self.optimizer.built:
            with contextlib.ExitStack() as stack:
                if hasattr(self, "distribute_strategy"):
                    stack.enter_context(self.distribute_strategy.scope())
                self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def _check_data(self, data):
        """Checks images, or what `fit` takes: the images come first."""
        # A tf.data.Dataset; what a generator gives is seen when it is called.
        data = getattr(data, "element_spec", data)
        leaves = keras.tree.flatten(data)
        if leaves and hasattr(leaves[0], "shape") and hasattr(leaves[0], "dtype"):
            _check_images(leaves[0], self.input_shape[1:])


def _check_images(images, input_shape):
    if getattr(images.shape, "rank", 0) is None:
        return  # A tensor of tf.data whose shape is not known yet.
    shape = tuple(images.shape)
    if len(shape) != 4:
        raise ValueError(
            "The model takes a batch of images, (batch, "
            f"{', '.join(map(str, input_shape))}); received shape {shape}. One image "
            "needs images[None], grey images images[..., None]."
        )
    if shape[3] not in (None, input_shape[2]):
        raise ValueError(
            f"The model takes images with {input_shape[2]} channels, last axis; "
            f"received shape {shape}."
        )
    if any(s not in (None, e) for s, e in zip(shape[1:3], input_shape[:2], strict=True)):
        raise ValueError(
            f"The model takes images of {input_shape[0]}x{input_shape[1]} pixels; "
            f"received shape {shape}. model.preprocessor resizes pixel values 0 to "
            "255 (unless its image_size is None); or use model.resized("
            f"{(*shape[1:3], input_shape[2])}) for a model of that size."
        )
    dtype = keras.backend.standardize_dtype(images.dtype)
    if not dtype.startswith(("float", "bfloat")):
        raise ValueError(
            f"The model takes floats that its preprocessor has scaled; received {dtype}. "
            "Use model(model.preprocessor(images)) for pixel values 0 to 255."
        )
