"""Multi-head self-attention."""

import keras

from keras_vit.layers.adaptation import Composite
from keras_vit.layers.dense import Dense
from keras_vit.layers.dot_product_attention import (
    attention_weights,
    dot_product_attention,
    merge_heads,
    self_attention,
    split_heads,
)
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


@keras.saving.register_keras_serializable(package="keras_vit")
class SelfAttention(Composite):
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
        self.built = True

    def _make_qkv(self, width):
        return Dense(
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

    def call(self, tokens, training=None):
        qkv = self.qkv(tokens)
        if self.relative_positions is None and not (training and self.dropout_rate):
            return self.projection(self_attention(self.num_heads)(qkv))
        query, key, value, bias = self._query_key_value_bias(qkv)
        mixed = dot_product_attention(
            query, key, value, bias, dropout=self.dropout, training=training
        )
        return self.projection(merge_heads(mixed))

    def attention_weights(self, tokens):
        """What each token looks at, in inference, whatever kernel `call` runs.

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
