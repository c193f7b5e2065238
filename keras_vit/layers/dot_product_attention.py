"""softmax(q k^T) v: the plain formula, and forms of it that are fast."""

import functools

import keras
from keras import ops

from keras_vit.layers.gradient import hand_written_gradient

# From this many tokens on, attention goes by blocks of queries: memory grows with the
# tokens and not with their square. The block is what a core's cache holds.
BLOCKS_FROM = 1024
BLOCK = 256


def split_heads(x, parts, num_heads):
    """`(b, n, parts * d)` to `parts` tensors `(b, num_heads, n, d / num_heads)`."""
    length, width = ops.shape(x)[1], x.shape[-1] // parts
    shape = (-1, length, num_heads, width // num_heads)
    return [
        ops.transpose(ops.reshape(part, shape), (0, 2, 1, 3))
        for part in ops.split(x, parts, axis=-1)
    ]


def merge_heads(x):
    """`(b, num_heads, n, head_dim)` to `(b, n, num_heads * head_dim)`."""
    _, heads, length, width = ops.shape(x)
    return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, length, heads * width))


def _transposed(x):
    return ops.transpose(x, (0, 1, 3, 2))


def _wide(x):
    """In float32, or float64 where it is that."""
    return ops.cast(x, keras.backend.result_type(x.dtype, "float32"))


def attention_weights(query, key, bias=None):
    """softmax(query @ key^T + bias), in float32.

    Args:
        query: `(b, k, n, head_dim)`, already scaled by `head_dim ** -0.5`.
        key: `(b, k, m, head_dim)`.
        bias: None, or `(b, k, n, m)` to add to the logits.

    Returns:
        `(b, k, n, m)`; each row sums to 1.
    """
    logits = ops.matmul(query, _transposed(key))
    if bias is not None:
        logits = logits + bias
    return ops.softmax(_wide(logits), axis=-1)


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
    weights = ops.cast(attention_weights(query, key, bias), value.dtype)
    if dropout is not None:
        weights = dropout(weights, training=training)
    return ops.matmul(weights, value)


def _numerators(query, key):
    """Weights before their division by the sum of a row, that sum, and its logarithm.

    XLA makes one pass of the exponential, and the division goes to the output, which
    is narrower. TensorFlow has the whole softmax in one pass, sum 1 included.
    """
    logits = _wide(ops.matmul(query, _transposed(key)))
    if keras.backend.backend() == "tensorflow":
        return ops.softmax(logits, axis=-1), None
    numerators = ops.exp(logits - ops.max(logits, axis=-1, keepdims=True))
    return numerators, ops.sum(numerators, axis=-1, keepdims=True)


@functools.cache
def self_attention(num_heads):
    """Multi-head attention over fused q, k and v, as a function.

    The same numbers as `dot_product_attention`, with its gradient written by hand.

    Args:
        num_heads: int, number of heads `k`.

    Returns:
        A function of `qkv (b, n, 3 * d)` that gives `(b, n, d)`.
    """

    def plain(qkv):
        query, key, value = split_heads(qkv, 3, num_heads)
        query = query * query.shape[-1] ** -0.5
        return merge_heads(dot_product_attention(query, key, value))

    @hand_written_gradient(plain)
    def attend(qkv):
        query, key, value = split_heads(qkv, 3, num_heads)
        scale = query.shape[-1] ** -0.5
        query = query * scale
        numerators, row_sum = _numerators(query, key)
        weights = ops.cast(numerators, qkv.dtype)
        mixed = ops.matmul(weights, value)
        if row_sum is not None:
            mixed = ops.cast(mixed / row_sum, qkv.dtype)
        mixed = merge_heads(mixed)

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            # Of each query and head: upstream . mixed, the softmax's own term.
            (row,) = split_heads(_wide(upstream) * _wide(mixed), 1, num_heads)
            row = ops.sum(row, axis=-1, keepdims=True)
            (upstream,) = split_heads(upstream, 1, num_heads)
            if row_sum is not None:
                upstream, row = ops.cast(upstream / row_sum, qkv.dtype), row / row_sum
            d_value = ops.matmul(_transposed(weights), upstream)
            d_weights = _wide(ops.matmul(upstream, _transposed(value)))
            d_logits = ops.cast(numerators * (d_weights - row), qkv.dtype)
            d_query = ops.matmul(d_logits, key) * scale
            d_key = ops.matmul(_transposed(d_logits), query)
            d_qkv = [merge_heads(x) for x in (d_query, d_key, d_value)]
            return (ops.concatenate(d_qkv, axis=-1),)

        return mixed, gradient

    return attend
