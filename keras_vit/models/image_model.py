"""Base class of models that check their images before any step runs."""

import contextlib
import functools
import importlib
import inspect
import types
import warnings

import keras
import numpy as np

from keras_vit.models.arguments import check_argument_names


def _checking(method, may_be_empty=False):
    """Return a method of `keras.Model` that checks its data before it runs."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def checked(self, *args, **kwargs):
        bound = signature.bind(self, *args, **kwargs)
        for name in ("x", "validation_data"):
            data = bound.arguments.get(name)
            if data is not None and may_be_empty:
                self._check_data(data)
            elif data is not None:
                bound.arguments[name] = self._checked_data(data)
        run = getattr(super(ImageModel, self), method.__name__)
        return run(*bound.args[1:], **bound.kwargs)

    return checked


class ImageModel(keras.Model):
    """Functional model that checks its input images.

    Without these checks, Keras would silently add or drop axes and convert integers to
    floats. Under JAX, moreover, an error inside a step of `fit` or `predict` would lose
    the weights of the model, whose buffers are donated to the step. Therefore the methods
    that run steps check their data first.

    A subclass builds its graph, calls the constructor with `inputs` and `outputs`, and
    has `input_shape` `(None, height, width, channels)`.
    """

    # If a subclass defined this method, `inspect.signature` of the subclass would return
    # the signature of `__new__`.
    def __new__(cls, *args, **kwargs):
        check_argument_names(cls, kwargs)
        return super().__new__(cls, *args, **kwargs)

    def __call__(self, inputs, *args, **kwargs):
        self._check_data(inputs)
        return super().__call__(inputs, *args, **kwargs)

    # Keras looks for an argument called `training` in this signature; without it, the
    # layers would always run in inference mode.
    def call(self, inputs, training=None, mask=None):
        # The steps of Keras's JAX trainer call this method directly.
        self._check_data(inputs)
        return super().call(inputs, training=training, mask=mask)

    fit = _checking(keras.Model.fit)
    evaluate = _checking(keras.Model.evaluate)
    predict = _checking(keras.Model.predict)
    train_on_batch = _checking(keras.Model.train_on_batch, may_be_empty=True)
    test_on_batch = _checking(keras.Model.test_on_batch, may_be_empty=True)
    predict_on_batch = _checking(keras.Model.predict_on_batch, may_be_empty=True)

    def make_train_function(self, force=False):
        # Create the optimizer's variables now. Under TensorFlow, the first step would
        # create them while it is traced and would then be traced again, which takes half
        # the time of the first step of a large model.
        _check_precision(self.optimizer, self.trainable_variables)
        if self.optimizer is not None and not self.optimizer.built:
            with contextlib.ExitStack() as stack:
                if hasattr(self, "distribute_strategy"):
                    stack.enter_context(self.distribute_strategy.scope())
                self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    def _checked_data(self, data):
        """Check the first batch of data for `fit`, and return the data.

        For a `tf.data.Dataset`, the element_spec is checked instead. Drawing the first
        batch could take minutes and would change the order of a shuffled data set.
        """
        if isinstance(data, types.GeneratorType):
            # Keras also draws the first batch of a generator in advance.
            first = next(data, None)
            if first is None:
                raise _no_images(data)
            self._check_data(first)
            return _with_first(first, data)
        if isinstance(data, keras.utils.PyDataset):
            if data.num_batches == 0:
                raise _no_images(data)
            self._check_data(data[0])
            return data
        if hasattr(data, "dataset") and hasattr(data, "collate_fn"):
            self._check_data(_first_of_loader(data))
            return data
        self._check_data(data)
        images = self._images_of(data)
        if hasattr(images, "cardinality"):
            empty = int(images.cardinality()) == 0
        else:
            empty = tuple(getattr(images, "shape", ()))[:1] == (0,)
        if empty:
            raise _no_images(images)
        return data

    def _check_data(self, data):
        """Check a batch of images, or a batch for `fit` whose first entry is images."""
        # A tf.data.Dataset has an element_spec.
        images = self._images_of(getattr(data, "element_spec", data))
        if hasattr(images, "shape") and hasattr(images, "dtype"):
            _check_images(images, self.input_shape[1:])
            self._warn_of_raw_pixels(images)

    def _images_of(self, data):
        """Return the first array or tensor of a nested batch, which are the images."""
        while isinstance(data, dict | list | tuple) and data:
            if isinstance(data, dict):
                data = data.get(self.inputs[0].name, next(iter(data.values())))
            else:
                data = data[0]
        return data

    def _warn_of_raw_pixels(self, images):
        """Warn once if an array holds pixel values that were not preprocessed."""
        preprocessor = getattr(self, "preprocessor", None)
        if preprocessor is None or self._warned or not isinstance(images, np.ndarray):
            return
        # A preprocessed white image has the largest possible values.
        white = np.max((255 - np.asarray(preprocessor.mean)) / preprocessor.std)
        sample = images[:8]
        if sample.size and sample.min() >= 0 and sample.max() > 10 * max(white, 0.1):
            self._warned = True
            warnings.warn(
                f"The images have values up to {float(sample.max()):.5g}; after "
                f"preprocessing they would be at most {float(white):.3g}. The model "
                "does not scale pixels: pass model.preprocessor(images).",
                stacklevel=4,
            )

    _warned = False


def _first_of_loader(loader):
    """Return the first example of a torch DataLoader as a batch, or None if unknown.

    The loader itself is not iterated, which would start its workers and change its order.
    """
    random, dataset = importlib.import_module("torch.random"), loader.dataset
    if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        return None  # The data set is an IterableDataset.
    if len(dataset) == 0:
        raise _no_images(loader)
    try:
        with random.fork_rng(devices=[]):
            example = dataset[0]
    except (IndexError, KeyError):  # The sampler may use other keys than 0.
        return None
    return loader.collate_fn(example if loader.batch_size is None else [example])


def _no_images(data):
    """Return the error for data without images."""
    shape = getattr(data, "shape", None)
    kind = type(data).__name__
    received = f"an empty {kind}" if shape is None else f"{kind} of shape {tuple(shape)}"
    return ValueError(
        f"fit, evaluate and predict need one image or more; received {received}. Check "
        "the filter or the files that the images came from."
    )


def _check_precision(optimizer, variables):
    """Raise a `ValueError` if float16 would round squared gradients to 0.

    A step of an adaptive optimizer would then divide the gradient by `epsilon`, which is
    meant to be negligible, and the weights would overflow.
    """
    # The optimizer may be wrapped for loss scaling.
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    epsilon = getattr(optimizer, "epsilon", None)
    if epsilon is None or epsilon >= 1e-4:
        return
    if any(variable.dtype == "float16" for variable in variables):
        raise ValueError(
            f"{type(optimizer).__name__} with epsilon={epsilon:g} cannot train float16 "
            "weights: the squares of small gradients are 0 in float16. Build the model "
            "with dtype='mixed_float16', whose weights are float32, or train with SGD."
        )


def _with_first(first, generator):
    """Yield the first batch again, and then the rest of a generator."""
    yield first
    yield from generator


def _check_images(images, input_shape):
    """Raise a `ValueError` unless these are float images of the model's shape."""
    if getattr(images, "ragged_rank", None):  # It is None for Keras's symbolic tensors.
        raise ValueError(
            "The model takes images of one size; received a ragged tensor, "
            f"{images.shape}. Resize each image with model.preprocessor before batching."
        )
    if getattr(images.shape, "rank", 0) is None:
        return  # The shape of a tf.data tensor may be unknown.
    shape = tuple(images.shape)
    if len(shape) != 4:
        gray, channels = "images[..., None]", input_shape[2]
        if channels not in (None, 1):
            gray = f"np.repeat({gray}, {channels}, axis=-1)"
        raise ValueError(
            "The model takes a batch of images, (batch, "
            f"{', '.join(map(str, input_shape))}); received shape {shape}. One image "
            f"needs images[None], gray images need {gray}."
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
