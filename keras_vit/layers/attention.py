"""Multi-head self-attention."""

import keras
from keras import ops

from keras_vit.layers.positions import RelativePositions


def head_dim(hidden_dim, num_heads):
    """Width of one attention head.

    Raises:
        ValueError: `num_heads` does not divide `hidden_dim`.
    """
    if num_heads < 1 or hidden_dim % num_heads:
        divisors = [n for n in range(1, hidden_dim + 1) if hidden_dim % n == 0]
        nearest = min(divisors, key=lambda n: abs(n - num_heads))
        raise ValueError(
            f"num_heads={num_heads} does not divide hidden_dim={hidden_dim}: each head "
            f"gets hidden_dim / num_heads entries. The nearest that does: {nearest}."
        )
    return hidden_dim // num_heads


def dot_product_attention(query, key, value, bias=None, dropout=None, training=None):
    """softmax(query @ key^T + bias) @ value.

    The products in the dtype of their operands, the softmax in float32.

    Args:
        query: `(b, k, n, head_dim)`, already scaled by `head_dim ** -0.5`.
        key: `(b, k, m, head_dim)`.
        value: `(b, k, m, head_dim)`.
        bias: None, or `(b, k, n, m)` to add to the logits.
        dropout: None, or a layer that is applied to the attention weights.
        training: bool, passed to `dropout`.

    Returns:
        `(b, k, n, head_dim)` in the dtype of `value`.
    """
    logits = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
    if bias is not None:
        logits = logits + bias
    if keras.backend.standardize_dtype(logits.dtype) != "float64":
        logits = ops.cast(logits, "float32")
    weights = ops.cast(ops.softmax(logits, axis=-1), value.dtype)
    if dropout is not None:
        weights = dropout(weights, training=training)
    return ops.matmul(weights, value)


@keras.saving.register_keras_serializable(package="keras_vit")
class SelfAttention(keras.layers.Layer):
    """Multi-head self-attention with one fused projection to q, k and v.

    Input and output: `(b, n, d)`, any float dtype. The softmax runs in float32.

    Keras's own `MultiHeadAttention` has three projections and no place for relative
    positions; one product over `(d, 3 d)` is faster, and is the layout of timm's and
    T2T-ViT's checkpoints. The columns of its kernel are ordered q, k, v, then head, then
    head entry.

    Args:
        num_heads: int, number of heads `k`; must divide `d`.
        use_qkv_bias: bool, whether q, k and v have biases.
        dropout_rate: dropout on the attention weights.
        relative_grid_shape: None, or the `(gh, gw)` of the grid for relative
            positions. The tokens before the last `gh * gw` get none.

    Raises:
        ValueError: `num_heads` does not divide `d`.

    Example:

    >>> import keras, keras_vit
    >>> tokens = keras.random.uniform((2, 5, 64))
    >>> tuple(keras_vit.layers.SelfAttention(num_heads=4)(tokens).shape)
    (2, 5, 64)

    Source: ViT (arXiv:2010.11929) appendix A.
    """

    def __init__(
        self,
        num_heads: int,
        use_qkv_bias: bool = True,
        dropout_rate: float = 0.0,
        relative_grid_shape: tuple[int, int] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.use_qkv_bias = use_qkv_bias
        self.dropout_rate = dropout_rate
        self.relative_grid_shape = relative_grid_shape
        self.dropout = keras.layers.Dropout(
            dropout_rate, dtype=self.dtype_policy, name="dropout"
        )

    def build(self, input_shape):
        width = input_shape[-1]
        self.scale = head_dim(width, self.num_heads) ** -0.5
        self.qkv = keras.layers.Dense(
            3 * width,
            use_bias=self.use_qkv_bias,
            # Glorot uniform of each of q, k and v alone: fan_avg of the fused
            # kernel is twice that of one of the three.
            kernel_initializer=keras.initializers.VarianceScaling(
                scale=2.0, mode="fan_avg", distribution="uniform"
            ),
            dtype=self.dtype_policy,
            name="qkv",
        )
        self.qkv.build(input_shape)
        self.projection = keras.layers.Dense(
            width, dtype=self.dtype_policy, name="projection"
        )
        self.projection.build(input_shape)
        self.relative_positions = None
        if self.relative_grid_shape is not None:
            gh, gw = self.relative_grid_shape
            if input_shape[1] < gh * gw:
                raise ValueError(
                    f"relative_grid_shape={(gh, gw)} has {gh * gw} positions; received "
                    f"{input_shape[1]} tokens."
                )
            self.relative_positions = RelativePositions(
                (gh, gw),
                num_prefix_tokens=input_shape[1] - gh * gw,
                dtype=self.dtype_policy,
                name="relative_positions",
            )
            self.relative_positions.build(
                (None, self.num_heads, input_shape[1], width // self.num_heads)
            )
        self.built = True

    def call(self, tokens, training=None):
        _, length, width = tokens.shape
        heads = self.num_heads
        qkv = ops.reshape(self.qkv(tokens), (-1, length, 3, heads, width // heads))
        query, key, value = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), 3)
        query = query * self.scale
        bias = None
        if self.relative_positions is not None:
            bias = self.relative_positions(query)
        mixed = dot_product_attention(
            query, key, value, bias, dropout=self.dropout, training=training
        )
        mixed = ops.reshape(ops.transpose(mixed, (0, 2, 1, 3)), (-1, length, width))
        return self.projection(mixed)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "use_qkv_bias": self.use_qkv_bias,
            "dropout_rate": self.dropout_rate,
            "relative_grid_shape": self.relative_grid_shape,
        }
