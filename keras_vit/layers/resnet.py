"""Standardized convolutions, group norms, and the ResNet stem of Google's hybrids.

The stem consists of post-activation bottlenecks with standardized kernels and, as in Big
Transfer, group normalization instead of batch normalization: the output for an image does
not depend on the rest of its batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import keras
from keras import ops

from keras_vit.choices import check_choice
from keras_vit.kernels.initial_values import InitialValues
from keras_vit.kernels.precision import to_float32
from keras_vit.layers.base import Layer

_GROUPS = 32


class Epsilons(NamedTuple):
    """Small numbers that keep a `ResNetStem` from dividing by zero.

    Attributes:
        norm: float, added to the variance in the group norms.
        deviation: float, added to the standard deviation of a filter.
        variance: float, added to the variance of a filter.
    """

    norm: float
    deviation: float
    variance: float


# The same networks give slightly different outputs in the two libraries.
EPSILONS = {
    "google": Epsilons(norm=1e-6, deviation=1e-5, variance=0.0),
    "bit": Epsilons(norm=1e-5, deviation=0.0, variance=1e-10),
    "timm": Epsilons(norm=1e-5, deviation=0.0, variance=1e-8),
}


def _strided_shape(input_shape, strides, channels):
    """Return the shape after SAME padding: sides divided by the stride and rounded up."""
    batch, *sides, _ = input_shape
    return (batch, *(side and -(-side // strides) for side in sides), channels)


def standardize(kernel, epsilons="google"):
    """Return `(kernel - mean) / std` over all axes except the last, in float32.

    Args:
        kernel: `(h, w, i, o)`, any float dtype.
        epsilons: str, a key of `EPSILONS`: Google's hybrids add 1e-5 to the standard
            deviation, Big Transfer 1e-10 and timm 1e-8 to the variance.

    Returns:
        The same shape in float32 (float64 is kept).

    Reference: Weight Standardization (arXiv:1903.10520) equation 5.
    """
    _, deviation, smallest = EPSILONS[epsilons]
    kernel = to_float32(kernel)
    centered = kernel - ops.mean(kernel, axis=(0, 1, 2))
    variance = ops.mean(ops.square(centered), axis=(0, 1, 2))
    # The gradient of a square root is infinite at 0, the variance of a constant filter.
    return centered / (ops.sqrt(ops.maximum(variance + smallest, 1e-30)) + deviation)


def pad_images(images, size):
    """Pad images `(b, h, w, c)` with `size` zeros on every side."""
    return ops.pad(images, ((0, 0), (size, size), (size, size), (0, 0)))


@keras.saving.register_keras_serializable(package="keras_vit")
class StandardizedConv2D(InitialValues, Layer):
    """Convolution whose filters are standardized to mean 0 and variance 1.

    It has no bias. The kernel is standardized in float32 under every policy.

    Input: `(b, h, w, c)`. Output: `(b, ceil(h / strides), ceil(w / strides), filters)`.

    Args:
        filters: int, channels of the output.
        kernel_size: int, side of the square kernel.
        strides: int, stride along both axes.
        epsilons: str, see `ResNetStem`.
        padding: `"same"`, that of TensorFlow and Flax, which with a stride puts more of
            the zeros after the image than before it; or `"symmetric"`, that of PyTorch
            and Big Transfer. They differ only with a stride.

    Example:

    >>> import keras, keras_vit
    >>> conv = keras_vit.layers.StandardizedConv2D(8, kernel_size=3, strides=2)
    >>> tuple(conv(keras.random.uniform((2, 9, 12, 3))).shape)
    (2, 5, 6, 8)

    Reference: Big Transfer (arXiv:1912.11370) section 3.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        strides: int = 1,
        epsilons: str = "google",
        padding: str = "same",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_choice("epsilons", epsilons, tuple(EPSILONS))
        check_choice("padding", padding, ("same", "symmetric"))
        self.filters = filters
        self.kernel_size = kernel_size
        self.strides = strides
        self.epsilons = epsilons
        self.padding = padding

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.kernel_size, self.kernel_size, input_shape[-1], self.filters),
            initializer="lecun_normal",
            autocast=False,  # The statistics must not be those of a rounded kernel.
        )

    def call(self, x):
        # Without a stride, SAME padding is symmetric as well.
        symmetric = self.padding == "symmetric" and self.strides > 1
        if symmetric:
            x = pad_images(x, (self.kernel_size - 1) // 2)
        return ops.conv(
            x,
            ops.cast(standardize(self.kernel, self.epsilons), x.dtype),
            strides=self.strides,
            padding="valid" if symmetric else "same",
            data_format="channels_last",
        )

    def compute_output_shape(self, input_shape):
        return _strided_shape(input_shape, self.strides, self.filters)


@keras.saving.register_keras_serializable(package="keras_vit")
class GroupNorm(keras.layers.GroupNormalization):
    """`keras.layers.GroupNormalization` for feature maps: faster, and safe under torch.

    Weights are the same, and outputs agree except for rounding. Keras reduces over groups
    that are not contiguous in memory. Under torch it computes the variance as the
    difference of two means, which rounding can make negative; the output is then NaN.

    Input and output: `(b, h, w, c)`, any float dtype; statistics in float32.

    Args:
        groups: int, number of groups of channels; must divide `c`.
        epsilon: float, added to the variance.
        initial_gamma: float, initial value of every scale.

    Raises:
        ValueError: `groups` does not divide the number of channels.

    Example:

    >>> import keras, keras_vit
    >>> x = keras.ops.convert_to_tensor([[[[1.0, 3.0]]]])
    >>> y = keras_vit.layers.GroupNorm(groups=1)(x)
    >>> keras.ops.convert_to_numpy(y).round(3).tolist()
    [[[[-1.0, 1.0]]]]

    Reference: Group Normalization (arXiv:1803.08494) equations 1, 2 and 7.
    """

    def __init__(
        self,
        groups: int = _GROUPS,
        epsilon: float = 1e-6,
        initial_gamma: float = 1.0,
        **kwargs,
    ):
        super().__init__(
            groups=groups,
            epsilon=epsilon,
            gamma_initializer=keras.initializers.Constant(initial_gamma),
            **kwargs,
        )
        self.initial_gamma = initial_gamma

    def call(self, inputs):
        x = to_float32(inputs)
        mean = self._group_mean(x)
        variance = self._group_mean(ops.square(x - mean))
        scale = to_float32(self.gamma) * ops.rsqrt(variance + self.epsilon)
        outputs = x * scale + (to_float32(self.beta) - mean * scale)
        return ops.cast(outputs, self.compute_dtype)

    def _group_mean(self, x):
        """Return each channel's group mean: `(b, h, w, c)` to `(b, 1, 1, c)`."""
        mean = ops.mean(x, axis=(1, 2))
        mean = ops.reshape(mean, (-1, self.groups, x.shape[-1] // self.groups))
        mean = ops.mean(mean, axis=-1)
        return ops.repeat(mean, x.shape[-1] // self.groups, axis=-1)[:, None, None]

    def get_config(self):
        return {
            **keras.layers.Layer.get_config(self),
            "groups": self.groups,
            "epsilon": self.epsilon,
            "initial_gamma": self.initial_gamma,
        }


@keras.saving.register_keras_serializable(package="keras_vit")
class BottleneckUnit(Layer):
    """`relu(shortcut(x) + norm(conv(relu(norm(conv(relu(norm(conv(x)))))))))`.

    The convolutions are 1x1, 3x3 with the stride, and 1x1 to four times the width. The
    shortcut is `x` itself, or its 1x1 projection with a norm where the shape changes. The
    scale of the last norm starts at zero, so that a fresh unit equals its shortcut.

    Input: `(b, h, w, c)`, any float dtype; norms are computed in float32.
    Output: `(b, ceil(h / strides), ceil(w / strides), 4 * width)`.

    Args:
        width: int, number of channels between the 1x1 convolutions; a multiple of 32,
            the number of groups in the norms.
        strides: int, stride of the 3x3 convolution and the projection.
        epsilons: str, see `ResNetStem`.

    Raises:
        ValueError: `width` is not a multiple of 32.

    Example:

    >>> import keras, keras_vit
    >>> unit = keras_vit.layers.BottleneckUnit(32, strides=2)
    >>> tuple(unit(keras.random.uniform((2, 9, 12, 64))).shape)
    (2, 5, 6, 128)

    Reference: Deep Residual Learning (arXiv:1512.03385) figure 5; Big Transfer
    (arXiv:1912.11370) for the norms. As in Google's hybrids and unlike Big Transfer, the
    unit is post-activation and the 3x3 convolution has the stride.
    """

    def __init__(self, width: int, strides: int = 1, epsilons: str = "google", **kwargs):
        super().__init__(**kwargs)
        _check_width(width)
        check_choice("epsilons", epsilons, tuple(EPSILONS))
        self.width = width
        self.strides = strides
        self.epsilons = epsilons

    def build(self, input_shape):
        policy, width = self.dtype_policy, self.width
        output_shape = self.compute_output_shape(input_shape)
        inner_shape = (*output_shape[:-1], width)

        def conv(name, filters, kernel_size, strides, input_shape):
            layer = StandardizedConv2D(
                filters, kernel_size, strides, self.epsilons, dtype=policy, name=name
            )
            layer.build(input_shape)
            return layer

        def norm(name, shape, initial_gamma=1.0):
            layer = GroupNorm(
                epsilon=EPSILONS[self.epsilons].norm,
                initial_gamma=initial_gamma,
                dtype=policy,
                name=name,
            )
            layer.build(shape)
            return layer

        before = (*input_shape[:-1], width)
        self.conv_1 = conv("conv_1", width, 1, 1, input_shape)
        self.norm_1 = norm("norm_1", before)
        self.conv_2 = conv("conv_2", width, 3, self.strides, before)
        self.norm_2 = norm("norm_2", inner_shape)
        self.conv_3 = conv("conv_3", 4 * width, 1, 1, inner_shape)
        self.norm_3 = norm("norm_3", output_shape, initial_gamma=0.0)
        self.has_projection = self.strides != 1 or input_shape[-1] != 4 * width
        if self.has_projection:
            self.projection = conv("projection", 4 * width, 1, self.strides, input_shape)
            self.projection_norm = norm("projection_norm", output_shape)

    def call(self, x):
        branch = ops.relu(self.norm_1(self.conv_1(x)))
        branch = ops.relu(self.norm_2(self.conv_2(branch)))
        branch = self.norm_3(self.conv_3(branch))
        if self.has_projection:
            x = self.projection_norm(self.projection(x))
        return ops.relu(x + branch)

    def compute_output_shape(self, input_shape):
        return _strided_shape(input_shape, self.strides, 4 * self.width)


@keras.saving.register_keras_serializable(package="keras_vit")
class ResNetStem(Layer):
    """ResNet of Google's hybrid models, which converts images to a feature map.

    It starts with a 7x7 convolution with stride 2, a norm, ReLU and a 3x3 max-pool with
    stride 2. Stages of bottleneck units follow. Each stage is twice as wide as the one
    before, and every stage except the first halves the feature map.

    The hybrids have these blocks: R26 `(2, 2, 2, 2)`; R50+B/16 `(3, 4, 9)`, which moves
    the blocks of a ResNet-50's last stage to the third, so that the sides of the feature
    map are a sixteenth of the image's; R50+L/32 `(3, 4, 6, 3)`; R+Ti/16 `()`.

    Input: images `(b, h, w, c)`, floats as for a `ViT`.
    Output: `(b, h / s, w / s, d)`, rounded up, where `s = 4`, doubled by each stage after
    the first; `d = width` without stages, else `4 * width * 2 ** (len(num_blocks) - 1)`.

    Args:
        num_blocks: sequence of ints, number of units in each stage; `()` for the first
            convolution and the max-pool alone.
        width: int, number of channels of the first convolution; a multiple of 32.
        epsilons: `"google"` or `"timm"`, the library whose small numbers are added to
            variances, or `"bit"` for those of Big Transfer; the outputs for the same
            weights differ slightly.

    Raises:
        ValueError: `num_blocks` holds something other than positive ints, `width` is not
            a multiple of 32, or `epsilons` is unknown.

    Example:

    >>> import keras, keras_vit
    >>> stem = keras_vit.layers.ResNetStem(num_blocks=(1, 2), width=32)
    >>> tuple(stem(keras.random.uniform((2, 64, 48, 3))).shape)
    (2, 8, 6, 256)

    Reference: ViT (arXiv:2010.11929) section 3.1, "Hybrid Architecture", and section 4.1;
    AugReg (arXiv:2106.10270) for R+Ti/16 and R26.
    """

    def __init__(
        self,
        num_blocks: Sequence[int] = (3, 4, 9),
        width: int = 64,
        epsilons: str = "google",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if isinstance(num_blocks, int) or not all(
            isinstance(number, int) and number > 0 for number in num_blocks
        ):
            raise ValueError(
                "num_blocks must hold a positive int for each stage, such as (3, 4, 9); "
                f"received {num_blocks!r}."
            )
        _check_width(width)
        check_choice("epsilons", epsilons, tuple(EPSILONS))
        self.num_blocks = tuple(num_blocks)
        self.width = width
        self.epsilons = epsilons
        policy = self.dtype_policy
        self.root = StandardizedConv2D(width, 7, 2, epsilons, dtype=policy, name="root")
        self.root_norm = GroupNorm(
            epsilon=EPSILONS[epsilons].norm, dtype=policy, name="root_norm"
        )
        self.stages = [
            [
                BottleneckUnit(
                    width * 2**stage,
                    strides=2 if stage and not unit else 1,
                    epsilons=epsilons,
                    dtype=policy,
                    name=f"unit_{unit}",
                )
                for unit in range(number)
            ]
            for stage, number in enumerate(self.num_blocks)
        ]

    def build(self, input_shape):
        self.root.build(input_shape)
        shape = self.root.compute_output_shape(input_shape)
        self.root_norm.build(shape)
        shape = _strided_shape(shape, 2, self.width)
        for stage, units in enumerate(self.stages):
            with keras.name_scope(f"stage_{stage}"):
                for unit in units:
                    unit.build(shape)
                    shape = unit.compute_output_shape(shape)

    def call(self, images):
        x = ops.relu(self.root_norm(self.root(images)))
        x = ops.max_pool(x, 3, 2, padding="same", data_format="channels_last")
        for units in self.stages:
            for unit in units:
                x = unit(x)
        return x

    @property
    def strides(self) -> int:
        """Number of pixels of the image for one position of the feature map, a side."""
        return 4 * 2 ** max(len(self.num_blocks) - 1, 0)

    def compute_output_shape(self, input_shape):
        shape = _strided_shape(input_shape, 4, self.width)
        for units in self.stages:
            for unit in units:
                shape = unit.compute_output_shape(shape)
        return shape


def _check_width(width):
    if not isinstance(width, int) or width < 1 or width % _GROUPS:
        raise ValueError(
            f"width must be a positive multiple of {_GROUPS}, the number of groups in "
            f"the norms; received {width!r}."
        )
