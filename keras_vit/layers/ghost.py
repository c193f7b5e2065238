"""Half the products: T2T-ViT's block with Ghost's cheap copies."""

import keras
from keras import ops

from keras_vit.layers.adaptation import Composite
from keras_vit.layers.attention import SelfAttention
from keras_vit.layers.block import TransformerBlock
from keras_vit.layers.dense import Dense
from keras_vit.layers.mlp import MLP, get_activation


@keras.saving.register_keras_serializable(package="keras_vit")
class GhostDense(Composite):
    """A dense layer that computes a part of its outputs; the others are scaled copies.

    `x, scale_1 * activation(x), scale_2 * activation(x), ...`, with `x = dense(inputs)`
    and a learned scale for each entry.

    Input: `(b, ..., d)`. Output: `(b, ..., units)`.

    Args:
        units: int, width of the output; `(copies + 1) * groups` divides it.
        copies: int, how many scaled copies follow what is computed.
        groups: int, parts of the output, each of which has its own copies at its end.
        activation: of what is copied, see `MLP`; None for none.
        use_bias: bool, whether the dense layer has a bias.

    Raises:
        ValueError: `(copies + 1) * groups` does not divide `units`.

    Example:

    >>> import keras, keras_vit
    >>> layer = keras_vit.layers.GhostDense(12, copies=2)
    >>> tuple(layer(keras.ops.ones((1, 5))).shape), tuple(layer.dense.kernel.shape)
    ((1, 12), (5, 4))

    Source: GhostNet (arXiv:1911.11907) equation 3, with 1x1 depthwise convolutions, as in
    T2T-ViT (arXiv:2101.11986) section 3.2.
    """

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
            # PyTorch's for a convolution that sees one entry.
            initializer=keras.initializers.RandomUniform(-1.0, 1.0),
        )
        self.built = True

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

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "copies": self.copies,
            "groups": self.groups,
            "activation": self.activation_name,
            "use_bias": self.use_bias,
        }


@keras.saving.register_keras_serializable(package="keras_vit")
class GhostSelfAttention(SelfAttention):
    """`SelfAttention` in which half of each of q, k and v are copies."""

    def _make_qkv(self, width):
        return GhostDense(
            3 * width,
            groups=3,
            use_bias=self.use_qkv_bias,
            dtype=self.dtype_policy,
            name="qkv",
        )


def ghost_copies(hidden_dim, mlp_dim):
    """How many copies of what is computed are in the MLP's hidden layer.

    Raises:
        ValueError: `hidden_dim` is odd, or `mlp_dim` is no multiple of it.
    """
    if hidden_dim % 2:
        raise ValueError(
            "Ghost's q, k and v are half copies: hidden_dim must be even; received "
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
    """An `MLP` whose hidden layer is computed as wide as the input, and else copied."""

    def _make_expand(self, width):
        return GhostDense(
            self.hidden_dim,
            copies=ghost_copies(width, self.hidden_dim),
            activation=self.activation_name,
            dtype=self.dtype_policy,
            name="expand",
        )


@keras.saving.register_keras_serializable(package="keras_vit")
class GhostBlock(TransformerBlock):
    """A `TransformerBlock` that computes a part of q, k, v and the MLP, and copies it.

    Input and output: `(b, n, d)`, `d` even.

    Args:
        As for `TransformerBlock`; `mlp_dim` is a multiple of `d`, two or more times it.

    Example:

    >>> import keras, keras_vit
    >>> block = keras_vit.layers.GhostBlock(num_heads=4, mlp_dim=192)
    >>> tuple(block(keras.random.uniform((2, 5, 64))).shape)
    (2, 5, 64)

    Source: T2T-ViT (arXiv:2101.11986) section 3.2, T2T-ViT-Ghost.
    """

    attention_class = GhostSelfAttention
    mlp_class = GhostMLP
