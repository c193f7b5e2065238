"""Layers of Big Transfer (BiT): ResNet-v2 with standardized kernels."""

import keras
from keras import ops

from keras_vit.choices import check_choice
from keras_vit.layers.base import Layer
from keras_vit.layers.resnet import EPSILONS, GroupNorm, StandardizedConv2D, pad_images


@keras.saving.register_keras_serializable(package="keras_vit")
class PreActivationUnit(Layer):
    """`shortcut + conv(a(norm(conv(a(norm(conv(a(norm(x)))))))))`, where `a` is ReLU.

    The convolutions are 1x1 to a quarter of the filters, 3x3 with the stride, and 1x1.
    The shortcut is `x` itself or, where the shape changes, a 1x1 projection of
    `a(norm(x))`.

    Input: `(b, h, w, c)`, any float dtype; norms are computed in float32.
    Output: `(b, ceil(h / strides), ceil(w / strides), filters)`.

    Args:
        filters: int, channels of the output, a multiple of 4.
        strides: int, stride of the 3x3 convolution and of the projection.
        groups: int, number of groups in the norms; must divide `c` and `filters / 4`.
        epsilons: str, see `ResNetStem`.

    Raises:
        ValueError: `groups` does not divide the channels.

    Example:

    >>> import keras, keras_vit
    >>> unit = keras_vit.layers.PreActivationUnit(128, strides=2)
    >>> tuple(unit(keras.random.uniform((2, 9, 12, 64))).shape)
    (2, 5, 6, 128)

    Reference: Big Transfer (arXiv:1912.11370) section 3; Identity Mappings in Deep
    Residual Networks (arXiv:1603.05027) figure 1b. As in Big Transfer's code, the stride
    is that of the 3x3 convolution.
    """

    def __init__(
        self,
        filters: int,
        strides: int = 1,
        groups: int = 32,
        epsilons: str = "bit",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_choice("epsilons", epsilons, tuple(EPSILONS))
        self.filters = filters
        self.strides = strides
        self.groups = groups
        self.epsilons = epsilons

    def build(self, input_shape):
        width = self.filters // 4
        before = (*input_shape[:-1], width)
        after = (*self.compute_output_shape(input_shape)[:-1], width)
        self.norm_1 = self._norm("norm_1", input_shape)
        self.conv_1 = self._conv("conv_1", width, 1, 1, input_shape)
        self.norm_2 = self._norm("norm_2", before)
        self.conv_2 = self._conv("conv_2", width, 3, self.strides, before)
        self.norm_3 = self._norm("norm_3", after)
        self.conv_3 = self._conv("conv_3", self.filters, 1, 1, after)
        self.has_projection = self.strides != 1 or input_shape[-1] != self.filters
        if self.has_projection:
            self.projection = self._conv(
                "projection", self.filters, 1, self.strides, input_shape
            )

    def _norm(self, name, shape):
        epsilon, policy = EPSILONS[self.epsilons].norm, self.dtype_policy
        layer = GroupNorm(self.groups, epsilon, dtype=policy, name=name)
        layer.build(shape)
        return layer

    def _conv(self, name, filters, kernel_size, strides, shape):
        layer = StandardizedConv2D(
            filters,
            kernel_size,
            strides,
            self.epsilons,
            padding="symmetric",
            dtype=self.dtype_policy,
            name=name,
        )
        layer.build(shape)
        return layer

    def call(self, x):
        activated = ops.relu(self.norm_1(x))
        shortcut = self.projection(activated) if self.has_projection else x
        x = self.conv_1(activated)
        x = self.conv_2(ops.relu(self.norm_2(x)))
        x = self.conv_3(ops.relu(self.norm_3(x)))
        return shortcut + x

    def compute_output_shape(self, input_shape):
        batch, *sides, _ = input_shape
        sides = (side and -(-side // self.strides) for side in sides)
        return (batch, *sides, self.filters)


@keras.saving.register_keras_serializable(package="keras_vit")
class ZeroPaddedMaxPool(keras.layers.Layer):
    """Max-pool of 3x3 positions with stride 2, on an image padded with zeros.

    Keras's `MaxPooling2D` pads with minus infinity: near the border of an image, negative
    maxima would remain, which become 0 in Big Transfer.

    Input: `(b, h, w, c)`. Output: `(b, ceil(h / 2), ceil(w / 2), c)`.
    """

    def call(self, x):
        x = pad_images(x, 1)
        return ops.max_pool(x, 3, 2, padding="valid", data_format="channels_last")

    def compute_output_shape(self, input_shape):
        batch, *sides, channels = input_shape
        return (batch, *(side and -(-side // 2) for side in sides), channels)
