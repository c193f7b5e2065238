"""softmax(q k^T) v: the plain formula, and forms of it that are fast."""

import functools

import keras
from keras import ops

from keras_vit.layers.gradient import hand_written_gradient
from keras_vit.layers.precision import wide

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
    return ops.softmax(wide(logits), axis=-1)


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


def has_fused_kernel(dtype):
    """Whether `keras.ops.dot_product_attention` is one kernel here, forwards and back.

    torch has one everywhere; JAX has cuDNN's, on GPUs and in half precision.
    """
    if keras.backend.backend() == "jax":
        import jax

        half = keras.backend.standardize_dtype(dtype) in ("float16", "bfloat16")
        return half and jax.default_backend() == "gpu"
    return keras.backend.backend() == "torch"


@functools.cache
def self_attention(num_heads, scale=None):
    """Multi-head attention over fused q, k and v, as a function.

    The same numbers as `dot_product_attention`, but for the order of sums. A backend's
    fused kernel where there is one. Elsewhere the gradient is written by hand; and from
    `BLOCKS_FROM` tokens on it goes by blocks of queries, in memory that grows with the
    number of tokens and not with its square.

    Args:
        num_heads: int, number of heads `k`.
        scale: float, of the queries; None for `head_dim ** -0.5`.

    Returns:
        A function of `qkv (b, n, 3 * d)` that gives `(b, n, d)`.

    Source: deferred division and blocks as in FlashAttention (arXiv:2205.14135), here
    with whole rows of keys.
    """

    def fused(qkv):
        shape = (-1, ops.shape(qkv)[1], num_heads, qkv.shape[-1] // (3 * num_heads))
        query, key, value = (ops.reshape(x, shape) for x in ops.split(qkv, 3, axis=-1))
        mixed = ops.dot_product_attention(query, key, value, scale=scale)
        return ops.reshape(mixed, (-1, shape[1], num_heads * shape[3]))

    @hand_written_gradient(fused)
    def attend(qkv):
        query, key, value = split_heads(qkv, 3, num_heads)
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        forward = _forward
        if query.shape[2] is not None and query.shape[2] >= BLOCKS_FROM:
            forward = _forward_by_blocks
        mixed, backward = forward(query * factor, key, value)
        mixed = merge_heads(mixed)

        def gradient(upstream):
            row = None
            if not _is_half(qkv.dtype):
                (row,) = split_heads(upstream * mixed, 1, num_heads)
                row = ops.sum(row, axis=-1, keepdims=True)
            (upstream,) = split_heads(upstream, 1, num_heads)
            d_query, d_key, d_value = backward(upstream, row)
            d_qkv = [merge_heads(x) for x in (d_query * factor, d_key, d_value)]
            return (ops.concatenate(d_qkv, axis=-1),)

        return mixed, gradient

    def choose(qkv):
        return fused(qkv) if has_fused_kernel(qkv.dtype) else attend(qkv)

    return choose


def _is_half(dtype):
    return keras.backend.standardize_dtype(dtype) in ("float16", "bfloat16")


def _softmax_gradient(weights, d_weights, row):
    """Of logits: `weights * (d_weights - sum(weights * d_weights))`.

    The sum is upstream . output as well, which has fewer entries and is given as `row`;
    but where products are rounded to half precision the difference of the two would not
    cancel: there `row` is None.
    """
    if row is None:
        row = ops.sum(weights * d_weights, axis=-1, keepdims=True)
    return weights * (d_weights - row)


def _forward(query, key, value):
    """Attention, and its gradient as a function of `upstream` and `row`."""
    logits = wide(ops.matmul(query, _transposed(key)))
    if _divides_first(value.dtype):
        numerators, row_sum = ops.softmax(logits, axis=-1), 1.0
    else:
        numerators = ops.exp(logits - ops.max(logits, axis=-1, keepdims=True))
        row_sum = ops.sum(numerators, axis=-1, keepdims=True)
    weights = ops.cast(numerators, value.dtype)
    mixed = ops.matmul(weights, value)
    mixed = ops.cast(mixed / row_sum, value.dtype)

    def backward(upstream, row):
        if row is None:
            # Whole weights, as the plain formula has them.
            whole = numerators / row_sum
            rounded = ops.cast(whole, value.dtype)
        else:
            # Numerators: what they lack, upstream and row are divided by.
            whole, rounded = numerators, weights
            upstream, row = upstream / row_sum, row / row_sum
        d_value = ops.matmul(_transposed(rounded), upstream)
        d_weights = wide(ops.matmul(upstream, _transposed(value)))
        d_logits = ops.cast(_softmax_gradient(whole, d_weights, row), value.dtype)
        d_query = ops.matmul(d_logits, key)
        d_key = ops.matmul(_transposed(d_logits), query)
        return d_query, d_key, d_value

    return mixed, backward


def _divides_first(dtype):
    """Whether weights are divided by their sum before the product with `value`.

    After it is a smaller division, and XLA makes one pass of what is before. But
    TensorFlow has the whole softmax in one pass; and in float16 the product of
    undivided weights can leave the range.
    """
    half = keras.backend.standardize_dtype(dtype) == "float16"
    return half or keras.backend.backend() == "tensorflow"


def _forward_by_blocks(query, key, value):
    """As `_forward`; keeps the logarithm of each row's sum, and no weights."""
    length = query.shape[2]

    def blocks(x):
        x = ops.pad(x, ((0, 0), (0, 0), (0, -length % BLOCK), (0, 0)))
        heads, width = x.shape[1], x.shape[3]
        x = ops.reshape(x, (-1, heads, -(-length // BLOCK), BLOCK, width))
        return ops.transpose(x, (2, 0, 1, 3, 4))

    def joined(x):
        x = ops.transpose(x, (1, 2, 0, 3, 4))
        shape = (-1, x.shape[1], x.shape[2] * BLOCK, x.shape[4])
        return ops.reshape(x, shape)[:, :, :length]

    def block(query):
        logits = wide(ops.matmul(query, _transposed(key)))
        log_sum = ops.logsumexp(logits, axis=-1, keepdims=True)
        weights = ops.cast(ops.exp(logits - log_sum), value.dtype)
        return ops.matmul(weights, value), log_sum

    query_blocks = blocks(query)
    mixed, log_sums = ops.map(block, query_blocks)

    def backward(upstream, row):
        # What is stacked over steps would have to be of the carry's shapes under
        # TensorFlow: so the blocks of d_query are written into a part of the carry.
        def step(carry, block):
            i, d_query, d_key, d_value = carry
            query, log_sum, upstream, *row = block
            logits = wide(ops.matmul(query, _transposed(key)))
            weights = ops.exp(logits - log_sum)
            d_weights = wide(ops.matmul(upstream, _transposed(value)))
            d_logits = _softmax_gradient(weights, d_weights, row[0] if row else None)
            d_logits = ops.cast(d_logits, value.dtype)
            weights = ops.cast(weights, value.dtype)
            d_query_block = ops.expand_dims(ops.matmul(d_logits, key), 0)
            # With jax_enable_x64, plain zeros would be int64, and JAX wants one dtype.
            zero = ops.zeros_like(i)
            d_query = ops.slice_update(
                d_query, (i, zero, zero, zero, zero), d_query_block
            )
            d_key = d_key + wide(ops.matmul(_transposed(d_logits), query))
            d_value = d_value + wide(ops.matmul(_transposed(weights), upstream))
            return (i + 1, d_query, d_key, d_value), None

        start = (
            ops.convert_to_tensor(0, "int32"),
            ops.zeros_like(query_blocks),
            ops.zeros_like(wide(key)),
            ops.zeros_like(wide(value)),
        )
        xs = [query_blocks, log_sums, blocks(upstream)]
        if row is not None:
            xs.append(blocks(row))
        (_, d_query, d_key, d_value), _ = ops.scan(step, start, xs)
        return (
            joined(d_query),
            ops.cast(d_key, value.dtype),
            ops.cast(d_value, value.dtype),
        )

    return joined(mixed), backward
