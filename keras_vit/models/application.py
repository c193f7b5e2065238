"""Networks of `keras.applications`, with the interface of `ViT`."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_vit.choices import check_choice
from keras_vit.layers import Preprocessor
from keras_vit.models.arguments import (
    check_image_shape,
    check_preprocessor,
    check_ranges,
)
from keras_vit.models.convolutional import (
    ConvolutionalModel,
    check_pooling,
    pooled_outputs,
)

# Networks whose layers all have names of their own. The names of the others depend on
# the models that the process built before, so that no path would identify a weight.
NETWORKS = (
    "ResNet50",
    "ResNet101",
    "ResNet152",
    "ResNet50V2",
    "ResNet101V2",
    "ResNet152V2",
    "DenseNet121",
    "DenseNet169",
    "DenseNet201",
    "MobileNetV2",
    "EfficientNetV2B0",
    "EfficientNetV2B1",
    "EfficientNetV2B2",
    "EfficientNetV2B3",
    "EfficientNetV2S",
    "EfficientNetV2M",
    "EfficientNetV2L",
)


@keras.saving.register_keras_serializable(package="keras_vit")
class KerasApplication(ConvolutionalModel):
    """Convolutional network of `keras.applications`, to compare with a `ViT`.

    It is a functional Keras model with the interface of `ViT`: `preprocessor`, `resized`,
    `save`, `load_checkpoint`, recipes and exports work alike. In the config of a run,
    `model.architecture="ResNet50"` selects it.

    The input is a batch of images `(b, h, w, c)`, floats that `model.preprocessor`
    computes from pixel values 0 to 255 as `preprocess_input` of the network does, except
    that the channels remain red, green, blue: the first kernel is reordered instead.

    Batch norms average their statistics over about 100 batches, those of MobileNetV2 over
    about 1000. A network that was trained from scratch for fewer steps is evaluated with
    statistics that are still close to their initial values.

    The output is `(b, classes)` in float32: probabilities, or the result of another
    `classifier_activation`. With `include_top=False` it is the mean of the last feature
    map, `(b, d)` in float32, or with `pooling=None` that map itself, `(b, h, w, d)`.

    Args:
        network: name of a network in `keras.applications`: a `"ResNet50"`, `"ResNet50V2"`
            or their deeper versions, a DenseNet, `"MobileNetV2"` or an EfficientNetV2.
        input_shape: `(height, width, channels)` of the images; may be rectangular.
        classes: int, number of classes.
        class_names: None, or a list of str, the names of the classes; see `ViT`.
        include_top: bool, whether the model has a classifier. It is always a new one.
        pooling: `"gap"`, or None with `include_top=False`.
        classifier_activation: name of a Keras activation, or None for logits.
        classifier_bias: float, initial bias of the classifier.
        preprocessor: None for the network's own, or a `Preprocessor`; see `ViT`.
        weights: None for random weights, or `"imagenet"` or the path of an `.h5` file for
            the backbone, as in `keras.applications`.
        name: name of the model.
        dtype: dtype policy; None for the global policy. The pooled features and the
            classifier are computed in float32 under every policy.

    Raises:
        ValueError: the network is unknown, or an argument is out of its range.

    Example:

    >>> import keras, keras_vit
    >>> model = keras_vit.KerasApplication("MobileNetV2", (32, 48, 3), classes=10)
    >>> pixels = keras.random.uniform((2, 32, 48, 3), maxval=255)
    >>> tuple(model(model.preprocessor(pixels)).shape)
    (2, 10)

    Reference: https://keras.io/api/applications/
    """

    def __init__(
        self,
        network: str = "ResNet50",
        input_shape: tuple[int, int, int] = (224, 224, 3),
        classes: int = 1000,
        class_names: Sequence[str] | None = None,
        include_top: bool = True,
        pooling: str | None = "gap",
        classifier_activation: str | None = "softmax",
        classifier_bias: float = 0.0,
        preprocessor: Preprocessor | None = None,
        weights: str | os.PathLike | None = None,
        name: str | None = None,
        dtype: str | keras.DTypePolicy | None = None,
    ):
        config: dict[str, Any] = {
            "network": network,
            "input_shape": tuple(input_shape),
            "classes": classes,
            "class_names": None if class_names is None else list(class_names),
            "include_top": include_top,
            "pooling": pooling,
            "classifier_activation": classifier_activation,
            "classifier_bias": classifier_bias,
        }
        check_choice("network", network, NETWORKS)
        check_image_shape(input_shape)
        check_ranges(config)
        check_pooling(config)
        _check_channels(network, config["input_shape"])
        own, reversed_channels = _own_preprocessor(network, config["input_shape"])
        if preprocessor is not None:
            check_preprocessor(preprocessor, config["input_shape"])
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        images, features = _backbone(network, config["input_shape"], weights, policy)
        outputs = pooled_outputs(features, config, policy)
        super().__init__(inputs=images, outputs=outputs, name=name)
        self.dtype_policy = policy  # Functional models have no argument `dtype`.
        self._constructor_config = config
        self._first_layer = next(layer.name for layer in self.layers if layer.weights)
        # The statistics of batch norms are not trained.
        self._fixed = {p for p, w in self.weights_by_path().items() if not w.trainable}
        self.grid_shape = features.shape[1:3]
        self.preprocessor = own if preprocessor is None else preprocessor
        if weights is not None and reversed_channels:
            kernel = self.weights_by_path()[self._first_kernel]
            kernel.assign(keras.ops.flip(kernel, axis=2))


def _check_channels(network, input_shape):
    """Raise a `ValueError` if a network scales red, green and blue in different ways."""
    if network.startswith("EfficientNetV2B") and input_shape[-1] != 3:
        raise ValueError(
            f"{network} scales the pixels of three channels itself; received input_shape="
            f"{input_shape}. Use EfficientNetV2S, or images with three channels."
        )


def _backbone(network, input_shape, weights, policy):
    """Build a network without its head, and return its images and its feature map."""
    images = keras.Input(input_shape, name="images")
    before = keras.config.dtype_policy()
    data_format = keras.config.image_data_format()
    # The functions of keras.applications have no arguments for these two.
    keras.config.set_dtype_policy(policy)
    keras.config.set_image_data_format("channels_last")
    try:
        build = getattr(keras.applications, network)
        model = build(include_top=False, weights=weights, input_tensor=images)
    finally:
        keras.config.set_dtype_policy(before)
        keras.config.set_image_data_format(data_format)
    return images, model.output


def _own_preprocessor(network, input_shape):
    """Return the preprocessor of a network, and whether it reverses the channels.

    It is determined from the network's `preprocess_input`, applied to a black and a red
    pixel of full intensity.
    """
    module = sys.modules[getattr(keras.applications, network).__module__]
    pixels = np.array([[[[0, 0, 0]]], [[[255, 0, 0]]], [[[255, 255, 255]]]], "float32")
    values = module.preprocess_input(pixels, data_format="channels_last")
    black, red, white = np.asarray(values, "float64").reshape(3, 3)
    reversed_channels = bool(red[0] == black[0])
    if reversed_channels:
        black, white = black[::-1], white[::-1]
    deviation = 255 / (white - black)
    preprocessor = Preprocessor(
        image_size=input_shape[:2],
        mean=tuple((-black * deviation).tolist()),
        std=tuple(deviation.tolist()),
    )
    return preprocessor.with_channels(input_shape[2]), reversed_channels
