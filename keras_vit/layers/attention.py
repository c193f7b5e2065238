"""Multi-head self-attention."""

from typing import Any, ClassVar

import keras
from keras import ops

from keras_vit.choices import check_choice
from keras_vit.kernels import attention as kernels
from keras_vit.kernels.attention import (
    causal_logits,
    merge_heads,
    split_heads,
    transpose_matrix,
)
from keras_vit.kernels.precision import to_float32
from keras_vit.kernels.switch import fast_form
from keras_vit.layers.base import Composite, copy_of, restored, stored
from keras_vit.layers.dense import Dense
from keras_vit.layers.norms import make_norm
from keras_vit.layers.positions import AttentionPositions
from keras_vit.layers.relative_positions import from_earlier


def attention_weights(query, key, bias=None, causal=False):
    """Return `softmax(query @ key^T + bias)`, in float32.

    Args:
        query: `(b, k, n, head_dim)`, already scaled by `head_dim ** -0.5`.
        key: `(b, k, m, head_dim)`.
        bias: None, or `(k, n, m)` or `(b, k, n, m)` to add to the logits.
        causal: bool, whether query `i` attends only to the keys up to `i`.

    Returns:
        `(b, k, n, m)`; each row sums to 1.
    """
    logits = ops.matmul(query, transpose_matrix(key))
    if bias is not None:
        dtype = keras.backend.result_type(logits.dtype, bias.dtype)
        logits = ops.cast(logits, dtype) + ops.cast(bias, dtype)
    logits = to_float32(logits)
    return ops.softmax(causal_logits(logits) if causal else logits, axis=-1)


def dot_product_attention(
    query, key, value, bias=None, dropout=None, training=None, causal=False
):
    """Return `softmax(query @ key^T + bias) @ value`.

    The products are computed in the dtype of their operands, the softmax in float32.

    Args:
        query: `(b, k, n, head_dim)`, already scaled by `head_dim ** -0.5`.
        key: `(b, k, m, head_dim)`.
        value: `(b, k, m, head_dim)`.
        bias: None, or `(k, n, m)` or `(b, k, n, m)` to add to the logits.
        dropout: None, or a layer that is applied to the attention weights.
        training: bool, passed to `dropout`.
        causal: bool, whether query `i` attends only to the keys up to `i`.

    Returns:
        `(b, k, n, head_dim)` in the dtype of `value`.
    """
    weights = ops.cast(attention_weights(query, key, bias, causal), value.dtype)
    if dropout is not None:
        weights = dropout(weights, training=training)
    return ops.matmul(weights, value)


@fast_form(kernels.self_attention)
def self_attention(qkv, num_heads, scale, causal=False):
    """Return `softmax(scale * q k^T) v` for each head, without bias and dropout.

    Args:
        qkv: `(b, n, 3 * d)`, queries, keys and values side by side.
        num_heads: int, number of heads.
        scale: float, factor of the queries.
        causal: bool, whether each token attends only to itself and those before it.

    Returns:
        `(b, n, d)`.

    Reference: ViT (arXiv:2010.11929) equations 6 and 7.
    """
    query, key, value = split_heads(qkv, 3, num_heads)
    mixed = dot_product_attention(query * scale, key, value, causal=causal)
    return merge_heads(mixed)


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
class _NoKeyBias(keras.constraints.Constraint):
    """Constraint that keeps the biases of the keys at zero."""

    def __call__(self, bias):
        query, key, value = ops.split(bias, 3)
        return ops.concatenate([query, ops.zeros_like(key), value])


@keras.saving.register_keras_serializable(package="keras_vit")
class SelfAttention(Composite):
    """Multi-head self-attention with one fused projection to q, k and v.

    Input and output: `(b, n, d)`, any float dtype. The softmax runs in float32.

    Keras's own `MultiHeadAttention` has three projections and does not support positions
    inside of the attention. One product over `(d, 3 d)` is faster, and is the layout of
    timm's and T2T-ViT's checkpoints. The columns of its kernel are ordered q, k, v, then
    head, then head entry.

    Args:
        num_heads: int, number of heads `k`; must divide `d`. None only in the argument
            `attention` of a model, which fills in its own number.
        use_qkv_bias: bool, whether q, k and v have biases, or `"qv"` for biases of q and
            v only (BEiT, EVA). The biases of k are then zero and stay zero in training.
        dropout_rate: dropout rate of the attention weights.
        positions: None, or a layer of positions that act inside of the attention, such as
            `RotaryPositions` or `RelativePositions`, with the `grid_shape` of the last
            tokens. The tokens before them are prefix tokens. A copy of it is made.
        qk_norm: bool, whether each query and key is normalized over its head entries.
        inner_norm: bool, whether the tokens are normalized before the output projection.
        use_projection_bias: bool, whether the output projection has a bias.
        norm: kind of these norms: `"layer"`, `"rms"`, or a `LayerNorm` or `RMSNorm`.
        layer_norm_epsilon: float, added to the variance in these norms.
        causal: bool, whether each token attends only to itself and the tokens before it,
            as in a model that predicts the next token.

    Raises:
        ValueError: `num_heads` does not divide `d`, or there are fewer tokens than the
            grid of `positions` has.

    Example:

    >>> import keras, keras_vit
    >>> tokens = keras.random.uniform((2, 5, 64))
    >>> tuple(keras_vit.layers.SelfAttention(num_heads=4)(tokens).shape)
    (2, 5, 64)

    Reference: ViT (arXiv:2010.11929) appendix A; QK norm: ViT-22B (arXiv:2302.05442);
    inner norm: Magneto (arXiv:2210.06423); causal: iGPT (Chen et al., 2020).
    """

    _attributes: ClassVar = {
        "inner_norm": "has_inner_norm",
        "norm": "norm_kind",
        "positions": "position_layer",
    }

    def __init__(
        self,
        num_heads: int | None = None,
        use_qkv_bias: bool | str = True,
        dropout_rate: float = 0.0,
        positions: keras.layers.Layer | None = None,
        qk_norm: bool = False,
        inner_norm: bool = False,
        use_projection_bias: bool = True,
        norm: str | keras.layers.Layer = "layer",
        layer_norm_epsilon: float = 1e-6,
        causal: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_choice("use_qkv_bias", use_qkv_bias, (True, False, "qv"))
        self.causal = causal
        self.num_heads: Any = num_heads
        self.use_qkv_bias = use_qkv_bias
        self.dropout_rate = dropout_rate
        self.position_layer = stored(positions)
        self._name_of_positions: str | None = None
        self.qk_norm = qk_norm
        self.has_inner_norm = inner_norm
        self.use_projection_bias = use_projection_bias
        self.norm_kind = stored(norm)
        self.layer_norm_epsilon = layer_norm_epsilon
        self.dropout = keras.layers.Dropout(
            dropout_rate, dtype=self.dtype_policy, name="dropout"
        )

    @classmethod
    def from_config(cls, config):
        return super().from_config(from_earlier(config))

    def build(self, input_shape):
        if self.num_heads is None:
            raise ValueError("SelfAttention needs num_heads; received None.")
        width = input_shape[-1]
        head_width = head_dim(width, self.num_heads)
        self.scale = head_width**-0.5
        self.qkv = self._make_qkv(width)
        self.qkv.build(input_shape)
        self.query_norm: Any = None
        self.key_norm: Any = None
        self.inner_norm: Any = None
        if self.qk_norm:
            self.query_norm = self._make_norm("query_norm", head_width)
            self.key_norm = self._make_norm("key_norm", head_width)
        if self.has_inner_norm:
            self.inner_norm = self._make_norm("inner_norm", width)
        self.projection = Dense(
            width,
            use_bias=self.use_projection_bias,
            dtype=self.dtype_policy,
            name="projection",
        )
        self.projection.build(input_shape)
        if self.position_layer is not None:
            # Files of weights name a layer by its attribute.
            layer = self._make_positions(input_shape[1], head_width)
            self._name_of_positions = layer.name
            setattr(self, layer.name, layer)

    def _make_qkv(self, width):
        return Dense(
            3 * width,
            use_bias=bool(self.use_qkv_bias),
            # Glorot uniform for each of q, k and v: the fan_avg of the fused kernel is
            # twice that of one of them.
            kernel_initializer=keras.initializers.VarianceScaling(
                scale=2.0, mode="fan_avg", distribution="uniform"
            ),
            bias_constraint=_NoKeyBias() if self.use_qkv_bias == "qv" else None,
            dtype=self.dtype_policy,
            name="qkv",
        )

    def _make_norm(self, name, width):
        norm = make_norm(
            self.norm_kind, self.layer_norm_epsilon, dtype=self.dtype_policy, name=name
        )
        norm.build((None, None, None, width))
        return norm

    def _make_positions(self, length, head_width):
        layer = restored(self.position_layer)
        if not isinstance(layer, AttentionPositions):
            raise ValueError(
                "positions must be a layer of positions inside of the attention, such as "
                f"keras_vit.layers.RotaryPositions(grid_shape); received {layer!r}."
            )
        if layer.grid_shape is None:
            raise ValueError(
                f"{type(layer).__name__} without a grid_shape can only be passed to a "
                "model, which fills it in; here it needs grid_shape=(rows, columns)."
            )
        gh, gw = layer.grid_shape
        if length < gh * gw:
            raise ValueError(
                f"positions with grid_shape={(gh, gw)} have {gh * gw} places; received "
                f"{length} tokens."
            )
        layer = copy_of(
            "positions",
            layer,
            (AttentionPositions,),
            num_prefix_tokens=length - gh * gw,
            dtype=self.dtype_policy,
            name=layer.name_in_attention,
        )
        if layer.computes_logits:
            layer.build((None, self.num_heads, length, head_width))
        else:
            layer.build((None, length, self.num_heads, head_width))
        return layer

    def call(self, tokens, training=None):
        return self._projected(self._mix(self._transformed(self.qkv(tokens)), training))

    def mixed_with_keys(self, tokens, key_bias=None, training=None):
        """Return the output of the layer, and the mean of the keys over the heads.

        Args:
            tokens: `(b, n, d)`, the input of the layer.
            key_bias: None, or `(b, n)`, float32, added to the logits of each key.
            training: bool, whether dropout is active.

        Returns:
            `(b, n, d)` and `(b, n, head_dim)`.

        Raises:
            ValueError: the attention is causal.
        """
        if self.causal:
            raise ValueError(
                "Tokens that are merged have no order, which causal attention needs: use "
                "causal=False, or no token reduction."
            )
        qkv = self._transformed(self.qkv(tokens))
        shape = (-1, qkv.shape[1], self.num_heads, qkv.shape[2] // (3 * self.num_heads))
        keys = ops.mean(ops.reshape(ops.split(qkv, 3, axis=-1)[1], shape), axis=2)
        if key_bias is None:
            return self._projected(self._mix(qkv, training)), keys
        query, key, value, bias = self._query_key_value_bias(qkv)
        key_bias = key_bias[:, None, None, :]
        mixed = dot_product_attention(
            query,
            key,
            value,
            key_bias if bias is None else bias + key_bias,
            dropout=self.dropout if self.dropout_rate else None,
            training=training,
        )
        return self._projected(merge_heads(mixed)), keys

    def _projected(self, mixed):
        if self.inner_norm is not None:
            mixed = self.inner_norm(mixed)
        return self.projection(mixed)

    # `keras_vit.visualize` replaces this method for a while.
    def _mix(self, qkv, training):
        """Return the values, mixed by the attention weights: `(b, n, d)`."""
        if self._layer_of_logits() is None and not (training and self.dropout_rate):
            return self_attention(qkv, self.num_heads, self.scale, self.causal)
        query, key, value, bias = self._query_key_value_bias(qkv)
        mixed = dot_product_attention(
            query, key, value, bias, self.dropout, training, self.causal
        )
        return merge_heads(mixed)

    def attention_weights(self, tokens):
        """Return the attention weights in inference, whichever kernel `call` runs.

        Args:
            tokens: `(b, n, d)`, the input of the layer.

        Returns:
            `(b, num_heads, n, n)`, float32: for each query a row that sums to 1.
        """
        qkv = self._transformed(self.qkv(tokens))
        query, key, _, bias = self._query_key_value_bias(qkv)
        return attention_weights(query, key, bias, self.causal)

    def attention_positions(self):
        """Return the layer of positions that act inside of the attention, or None.

        It is not a property, because Keras would find the layer under two names.
        """
        if self._name_of_positions is None:
            return None
        return getattr(self, self._name_of_positions)

    def _layer_of_logits(self):
        positions = self.attention_positions()
        return positions if getattr(positions, "computes_logits", False) else None

    def _transformed(self, qkv):
        """Normalize and rotate the queries and keys in `(b, n, 3 * d)`."""
        rotary = self.attention_positions()
        if rotary is self._layer_of_logits():
            rotary = None
        if rotary is None and self.query_norm is None:
            return qkv
        length, width = ops.shape(qkv)[1], qkv.shape[-1] // 3
        # TensorFlow pads the gradient of a slice with zeros, but not that of a split.
        x, value = ops.split(qkv, [2 * width], axis=-1)
        # The heads of the queries, then those of the keys: one pass for both.
        heads = 2 * self.num_heads
        x = ops.reshape(x, (-1, length, heads, width // self.num_heads))
        if self.query_norm is not None:
            query, key = ops.split(x, 2, axis=2)
            x = ops.concatenate([self.query_norm(query), self.key_norm(key)], axis=2)
        if rotary is not None:
            x = rotary(x)
        x = ops.reshape(x, (-1, length, 2 * width))
        return ops.concatenate([x, value], axis=-1)

    def _query_key_value_bias(self, qkv):
        query, key, value = split_heads(qkv, 3, self.num_heads)
        query = query * self.scale
        positions = self._layer_of_logits()
        bias = None if positions is None else positions(query)
        return query, key, value, bias
