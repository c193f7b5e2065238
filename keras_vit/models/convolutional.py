"""Common parts of the convolutional networks that ViT is compared with."""

from collections.abc import Mapping
from typing import Any, Self

import keras

from keras_vit.choices import check_choice
from keras_vit.layers import Classifier
from keras_vit.models.adapt import resized
from keras_vit.models.head import head_dtype
from keras_vit.models.restorable_model import RestorableModel
from keras_vit.weights.patch_kernels import adapt_channels


class ConvolutionalModel(RestorableModel):
    """Base class of convolutional networks, which take images of any size.

    The layer named `_first_layer` is the convolution of the images.
    """

    # The positions of the last map are the tokens of `features` and of exports.
    num_prefix_tokens = 0

    def resolved_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, for converters."""
        return dict(self._constructor_config)

    def resized(self, input_shape: tuple[int, int, int]) -> Self:
        """Return the same network, with the same weights, for images of another size.

        Args:
            input_shape: `(height, width, channels)` of the new images, which may be
                rectangular but must have the same channels.

        Returns:
            A new, uncompiled model of the same class; this one is not changed.

        Raises:
            ValueError: the channels differ.
        """
        return resized(self, input_shape)

    @property
    def _first_kernel(self):
        """Path of the kernel that the images are convolved with."""
        return f"{self._first_layer}/kernel"

    def _values_for(self, new, resize):
        values, channels = self._values(), new.input_shape[-1]
        if channels != self.input_shape[-1]:
            kernel = values[self._first_kernel]
            values[self._first_kernel] = adapt_channels(kernel, channels)
        return values


def check_pooling(config: Mapping[str, Any]) -> None:
    """Raise a `ValueError` unless the argument `pooling` of a model is possible.

    Args:
        config: the arguments of the model.
    """
    check_choice("pooling", config["pooling"], ("gap", None))
    if config["pooling"] is None and config["include_top"]:
        raise ValueError(
            "pooling=None gives the feature map and needs include_top=False; received "
            f"include_top={config['include_top']}."
        )


def pooled_outputs(
    features: Any, config: Mapping[str, Any], policy: keras.DTypePolicy
) -> Any:
    """Return a feature map, its mean, or the predictions of a classifier.

    Args:
        features: symbolic feature map `(b, h, w, d)`.
        config: the arguments of the model: `include_top`, `pooling` and those of the
            classifier.
        policy: dtype policy of the model. Means and predictions have at least float32.
    """
    if config["pooling"] is None:
        return features
    dtype = head_dtype(policy)
    pooling = keras.layers.GlobalAveragePooling2D(
        data_format="channels_last", name="pooling", dtype=dtype
    )
    x = pooling(features)  # (b, d)
    if not config["include_top"]:
        return x
    classifier = Classifier(
        config["classes"],
        activation=config["classifier_activation"],
        bias_initializer=keras.initializers.Constant(config["classifier_bias"]),
        name="classifier",
        dtype=dtype,
    )
    return classifier(x)
