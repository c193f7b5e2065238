"""Multi-head self-attention."""

import keras
from keras import ops

from keras_vit.kernels import attention as kernels
from keras_vit.kernels.attention import merge_heads, split_heads, transpose_matrix
from keras_vit.kernels.precision import to_float32
from keras_vit.kernels.switch import fast_form
from keras_vit.layers.base import Composite
from keras_vit.layers.dense import Dense
from keras_vit.layers.positions import RelativePositions


def attention_weights(query, key, bias=None):
    """Return `softmax(query @ key^T + bias)`, in float32.

    Args:
        query: `(b, k, n, head_dim)`, already scaled by `head_dim ** -0.5`.
        key: `(b, k, m, head_dim)`.
        bias: None, or `(b, k, n, m)` to add to the logits.

    Returns:
        `(b, k, n, m)`; each row sums to 1.
    """
    logits = ops.matmul(query, transpose_matrix(key))
    if bias is not None:
        logits = logits + bias
    return ops.softmax(to_float32(logits), axis=-1)


def dot_product_attention(query, key, value, bias=None, dropout=None, training=None):
    """Return `softmax(query @ key^T + bias) @ value`.

    The products are computed in the dtype of their operands, the softmax in float32.

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
    weights = ops.cast(attention_weights(query, key, bias), value.dtype)
    if dropout is not None:
        weights = dropout(weights, training=training)
    return ops.matmul(weights, value)


@fast_form(kernels.self_attention)
def self_attention(qkv, num_heads, scale):
    """Return `softmax(scale * q k^T) v` for each head, without bias and dropout.

    Args:
        qkv: `(b, n, 3 * d)`, queries, keys and values side by side.
        num_heads: int, number of heads.
        scale: float, factor of the queries.

    Returns:
        `(b, n, d)`.

    Reference: ViT (arXiv:2010.11929) equations 6 and 7.
    """
    query, key, value = split_heads(qkv, 3, num_heads)
    return merge_heads(dot_product_attention(query * scale, key, value))


def head_dim(hidden_dim, num_heads):
    """Return the width of one attention head.

    Raises:
        ValueError: `num_heads` does not divide `hidden_dim`.
    """
    if num_heads < 1 or hidden_dim % num_heads:
        divisors = [n for n in range(1, hidden_dim + 1) if hidden_dim % n == 0]
        nearest = min(divisors, key=lambda n: abs(n - num_heads))
        raise ValueError(
            f"num_heads={num_heads} does not divide hidden_dim={hidden_dim}: each head "
            f"gets hidden_dim / num_heads entries. The nearest divisor: {nearest}."
        )
    return hidden_dim // num_heads


@keras.saving.register_keras_serializable(package="keras_vit")
class SelfAttention(Composite):
    """Multi-head self-attention with one fused projection to q, k and v.

    Input and output: `(b, n, d)`, any float dtype. The softmax runs in float32.

    Keras's own `MultiHeadAttention` has three projections and does not support relative
    positions. One product over `(d, 3 d)` is faster, and is the layout of timm's and
    T2T-ViT's checkpoints. The columns of its kernel are ordered q, k, v, then head, then
    head entry.

    Args:
        num_heads: int, number of heads `k`; must divide `d`.
        use_qkv_bias: bool, whether q, k and v have biases.
        dropout_rate: dropout rate of the attention weights.
        relative_grid_shape: None, or the `(gh, gw)` of the grid for relative positions.
            Tokens before the last `gh * gw` get no relative positions.

    Raises:
        ValueError: `num_heads` does not divide `d`.

    Example:

    >>> import keras, keras_vit
    >>> tokens = keras.random.uniform((2, 5, 64))
    >>> tuple(keras_vit.layers.SelfAttention(num_heads=4)(tokens).shape)
    (2, 5, 64)

    Reference: ViT (arXiv:2010.11929) appendix A.
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
        self.qkv = self._make_qkv(width)
        self.qkv.build(input_shape)
        self.projection = Dense(width, dtype=self.dtype_policy, name="projection")
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

    def _make_qkv(self, width):
        return Dense(
            3 * width,
            use_bias=self.use_qkv_bias,
            # Glorot uniform for each of q, k and v: the fan_avg of the fused kernel is
            # twice that of one of them.
            kernel_initializer=keras.initializers.VarianceScaling(
                scale=2.0, mode="fan_avg", distribution="uniform"
            ),
            dtype=self.dtype_policy,
            name="qkv",
        )

    def call(self, tokens, training=None):
        qkv = self.qkv(tokens)
        if self.relative_positions is None and not (training and self.dropout_rate):
            return self.projection(self_attention(qkv, self.num_heads, self.scale))
        query, key, value, bias = self._query_key_value_bias(qkv)
        mixed = dot_product_attention(
            query, key, value, bias, dropout=self.dropout, training=training
        )
        return self.projection(merge_heads(mixed))

    def attention_weights(self, tokens):
        """Return the attention weights in inference, whichever kernel `call` runs.

        Args:
            tokens: `(b, n, d)`, the input of the layer.

        Returns:
            `(b, num_heads, n, n)`, float32: for each query a row that sums to 1.
        """
        query, key, _, bias = self._query_key_value_bias(self.qkv(tokens))
        return attention_weights(query, key, bias)

    def _query_key_value_bias(self, qkv):
        query, key, value = split_heads(qkv, 3, self.num_heads)
        query = query * self.scale
        bias = None
        if self.relative_positions is not None:
            bias = self.relative_positions(query)
        return query, key, value, bias
