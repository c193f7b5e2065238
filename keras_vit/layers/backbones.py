"""Variants of the Transformer block from T2T-ViT: squeeze-excitation, Ghost, dense."""

from typing import ClassVar

import keras
from keras import ops

from keras_vit.kernels.precision import to_float32
from keras_vit.layers.attention import SelfAttention
from keras_vit.layers.base import Composite
from keras_vit.layers.block import TransformerBlock
from keras_vit.layers.dense import Dense
from keras_vit.layers.mlp import MLP, get_activation


@keras.saving.register_keras_serializable(package="keras_vit")
class SqueezeExcitation(Composite):
    """Channel attention: `x * sigmoid(W2 relu(W1 mean(x)))`, the mean over all tokens.

    Input and output: `(b, n, d)`, any float dtype; the mean is taken in float32.

    Args:
        reduction: int, the hidden layer has width `d // reduction`.

    Example:

    >>> import keras, keras_vit
    >>> tokens = keras.random.uniform((2, 5, 32))
    >>> tuple(keras_vit.layers.SqueezeExcitation()(tokens).shape)
    (2, 5, 32)

    Reference: Squeeze-and-Excitation Networks (arXiv:1709.01507), without biases, as in
    T2T-ViT (arXiv:2101.11986) section 3.2.
    """

    def __init__(self, reduction: int = 16, **kwargs):
        super().__init__(**kwargs)
        self.reduction = reduction

    def build(self, input_shape):
        width = input_shape[-1]
        if width < self.reduction:
            raise ValueError(
                f"SqueezeExcitation with reduction={self.reduction} needs tokens of that "
                f"width (hidden_dim) or more; received {width}."
            )

        def dense(units, activation, name):
            return Dense(
                units,
                activation=activation,
                use_bias=False,
                dtype=self.dtype_policy,
                name=name,
            )

        self.squeeze = dense(width // self.reduction, "relu", "squeeze")
        self.squeeze.build((None, width))
        self.excite = dense(width, "sigmoid", "excite")
        self.excite.build((None, width // self.reduction))

    def call(self, tokens):
        # A sum over thousands of tokens can overflow in float16.
        mean = ops.cast(ops.mean(to_float32(tokens), axis=1), tokens.dtype)
        return tokens * self.excite(self.squeeze(mean))[:, None]


@keras.saving.register_keras_serializable(package="keras_vit")
class SqueezeExcitationAttention(SelfAttention):
    """`SelfAttention` followed by `SqueezeExcitation`."""

    def build(self, input_shape):
        self.squeeze_excitation = SqueezeExcitation(
            dtype=self.dtype_policy, name="squeeze_excitation"
        )
        self.squeeze_excitation.build(input_shape)
        super().build(input_shape)

    def call(self, tokens, training=None):
        return self.squeeze_excitation(super().call(tokens, training=training))


@keras.saving.register_keras_serializable(package="keras_vit")
class SqueezeExcitationBlock(TransformerBlock):
    """A `TransformerBlock` with channel attention after self-attention.

    Input and output: `(b, n, d)`, where `d` is at least 16.

    Args:
        **kwargs: as for `TransformerBlock`.

    Example:

    >>> import keras, keras_vit
    >>> block = keras_vit.layers.SqueezeExcitationBlock(num_heads=4, mlp_dim=128)
    >>> tuple(block(keras.random.uniform((2, 5, 64))).shape)
    (2, 5, 64)

    Reference: T2T-ViT (arXiv:2101.11986) section 3.2, T2T-ViT-SE.
    """

    attention_class = SqueezeExcitationAttention


@keras.saving.register_keras_serializable(package="keras_vit")
class GhostDense(Composite):
    """A dense layer that computes part of its outputs; the others are scaled copies.

    The output is `x, scale_1 * activation(x), scale_2 * activation(x), ...` side by side,
    with `x = dense(inputs)` and a learned scale for each entry.

    Input: `(b, ..., d)`. Output: `(b, ..., units)`.

    Args:
        units: int, width of the output; a multiple of `(copies + 1) * groups`.
        copies: int, number of scaled copies.
        groups: int, number of parts of the output; each part is followed by its copies.
        activation: None, or the activation of the copies, see `MLP`.
        use_bias: bool, whether the dense layer has a bias.

    Raises:
        ValueError: `(copies + 1) * groups` does not divide `units`.

    Example:

    >>> import keras, keras_vit
    >>> layer = keras_vit.layers.GhostDense(12, copies=2)
    >>> tuple(layer(keras.ops.ones((1, 5))).shape), tuple(layer.dense.kernel.shape)
    ((1, 12), (5, 4))

    Reference: GhostNet (arXiv:1911.11907) equation 3, with 1x1 depthwise convolutions, as
    in T2T-ViT (arXiv:2101.11986) section 3.2.
    """

    _attributes: ClassVar = {"activation": "activation_name"}

    def __init__(
        self,
        units: int,
        copies: int = 1,
        groups: int = 1,
        activation: str | None = None,
        use_bias: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if copies < 1 or units % ((copies + 1) * groups):
            raise ValueError(
                f"units={units} must be a multiple of {(copies + 1) * groups}: "
                f"(copies + 1) * groups with copies={copies}, 1 or more, and "
                f"groups={groups}."
            )
        self.units = units
        self.copies = copies
        self.groups = groups
        self.activation_name = activation
        self.activation = None if activation is None else get_activation(activation)
        self.use_bias = use_bias
        self.dense = Dense(
            units // (copies + 1),
            use_bias=use_bias,
            dtype=self.dtype_policy,
            name="dense",
        )

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.scale = self.add_weight(
            name="scale",
            shape=(self.copies * self.dense.units,),
            # PyTorch's default for a depthwise 1x1 convolution.
            initializer=keras.initializers.RandomUniform(-1.0, 1.0),
        )

    def call(self, inputs):
        width = self.dense.units // self.groups
        x = ops.reshape(self.dense(inputs), (-1, self.groups, width))
        copied = x if self.activation is None else self.activation(x)
        scales = ops.reshape(self.scale, (self.copies, self.groups, width))
        copies = [copied * scales[i] for i in range(self.copies)]
        x = ops.concatenate([x, *copies], axis=-1)
        return ops.reshape(x, (-1, *ops.shape(inputs)[1:-1], self.units))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)


@keras.saving.register_keras_serializable(package="keras_vit")
class GhostSelfAttention(SelfAttention):
    """`SelfAttention` in which half of each of q, k and v are copies."""

    def _make_qkv(self, width):
        if self.use_qkv_bias == "qv":
            raise ValueError(
                "Copies would give the keys biases too: Ghost needs qkv_bias=True or "
                "False; received 'qv'."
            )
        return GhostDense(
            3 * width,
            groups=3,
            use_bias=bool(self.use_qkv_bias),
            dtype=self.dtype_policy,
            name="qkv",
        )


def ghost_copies(hidden_dim, mlp_dim):
    """Return the number of copies in the hidden layer of a Ghost MLP.

    Raises:
        ValueError: `hidden_dim` is odd, or `mlp_dim` is not a multiple of it.
    """
    if hidden_dim % 2:
        raise ValueError(
            "Half of Ghost's q, k and v are copies: hidden_dim must be even; received "
            f"{hidden_dim}."
        )
    if mlp_dim % hidden_dim or mlp_dim == hidden_dim:
        nearest = max(round(mlp_dim / hidden_dim), 2) * hidden_dim
        raise ValueError(
            f"Ghost's mlp_dim must be two or more times hidden_dim={hidden_dim}; "
            f"received {mlp_dim}. The nearest: {nearest}."
        )
    return mlp_dim // hidden_dim - 1


@keras.saving.register_keras_serializable(package="keras_vit")
class GhostMLP(MLP):
    """An `MLP` that computes `d` entries of its hidden layer and copies the others."""

    def _make_expand(self, width):
        return GhostDense(
            self.hidden_dim,
            copies=ghost_copies(width, self.hidden_dim),
            activation=self.activation_name,
            use_bias=self.use_bias,
            dtype=self.dtype_policy,
            name="expand",
        )


@keras.saving.register_keras_serializable(package="keras_vit")
class GhostBlock(TransformerBlock):
    """A `TransformerBlock` that computes part of q, k, v and the MLP and copies the rest.

    Input and output: `(b, n, d)`, where `d` is even.

    Args:
        **kwargs: as for `TransformerBlock`; `mlp_dim` is `d` times 2 or a larger int.

    Example:

    >>> import keras, keras_vit
    >>> block = keras_vit.layers.GhostBlock(num_heads=4, mlp_dim=192)
    >>> tuple(block(keras.random.uniform((2, 5, 64))).shape)
    (2, 5, 64)

    Reference: T2T-ViT (arXiv:2101.11986) section 3.2, T2T-ViT-Ghost.
    """

    attention_class = GhostSelfAttention
    mlp_class = GhostMLP


@keras.saving.register_keras_serializable(package="keras_vit")
class DenseBlock(TransformerBlock):
    """A `TransformerBlock` whose projected output is appended to its input.

    Input: `(b, n, d)`. Output: `(b, n, d + growth_rate)`.

    Args:
        growth_rate: int, number of channels that the block appends.
        **kwargs: as for `TransformerBlock`.

    Example:

    >>> import keras, keras_vit
    >>> block = keras_vit.layers.DenseBlock(growth_rate=16, num_heads=4, mlp_dim=128)
    >>> tuple(block(keras.random.uniform((2, 5, 64))).shape)
    (2, 5, 80)

    Reference: DenseNet (arXiv:1608.06993), as in T2T-ViT (arXiv:2101.11986) section 3.2.
    """

    def __init__(self, growth_rate: int, **kwargs):
        super().__init__(**kwargs)
        self.growth_rate = growth_rate
        self.growth = Dense(growth_rate, dtype=self.dtype_policy, name="growth")

    def build(self, input_shape):
        super().build(input_shape)
        self.growth.build(input_shape)

    def _transform(self, x, training):
        new = self.growth(super()._transform(x, training))
        return ops.concatenate([x, new], axis=-1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[-1] + self.growth_rate)
