"""Self-attention with a hand-written gradient, in one piece or by blocks of queries.

Plain formula: `keras_vit.layers.attention`.
"""

import functools

import keras
from keras import ops

from keras_vit.kernels import cudnn
from keras_vit.kernels.gradient import hand_written_gradient
from keras_vit.kernels.precision import is_half, to_float32

# Sequences of at least BLOCKS_FROM tokens are computed by blocks of BLOCK queries: memory
# is then linear in the number of tokens instead of quadratic. A block fits into the cache
# of a CPU core.
BLOCKS_FROM = 1024
BLOCK = 256


def split_heads(x, parts, num_heads):
    """Split `(b, n, parts * d)` into `parts` tensors `(b, k, n, head_dim)`."""
    length, width = ops.shape(x)[1], x.shape[-1] // parts
    shape = (-1, length, num_heads, width // num_heads)
    return [
        ops.transpose(ops.reshape(part, shape), (0, 2, 1, 3))
        for part in ops.split(x, parts, axis=-1)
    ]


def merge_heads(x):
    """Merge `(b, k, n, head_dim)` into `(b, n, k * head_dim)`."""
    _, heads, length, width = ops.shape(x)
    return ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, length, heads * width))


def transpose_matrix(x):
    """Swap the last two of four axes."""
    return ops.transpose(x, (0, 1, 3, 2))


def _by_transpose(x, y):
    """Return `x @ y^T` for each head.

    A product with a transpose makes XLA store `y` in both forms: for the values of the
    attention, it would even keep all of `qkv` to copy from in the backward pass.
    """
    if keras.backend.backend() == "jax":
        return ops.einsum("bknd,bkmd->bknm", x, y)
    return ops.matmul(x, transpose_matrix(y))


def causal_logits(logits, first=0):
    """Return attention logits with those of later keys replaced by a large negative one.

    Args:
        logits: `(..., n, m)`, float32.
        first: int or int tensor, the number of the first query among the keys.
    """
    queries = first + ops.arange(ops.shape(logits)[-2], dtype="int32")
    keys = ops.arange(ops.shape(logits)[-1], dtype="int32")
    # Not infinity, which checks of numerics report. Its exponential is 0 all the same.
    return ops.where(keys[None, :] <= queries[:, None], logits, -1e30)


def self_attention(qkv, num_heads, scale, causal=False):
    """Return `softmax(scale * q k^T) v` for each head.

    Use the backend's fused kernel where there is one: torch everywhere, JAX (cuDNN) on
    GPUs in half precision. Elsewhere the gradient is written by hand, and sequences of
    `BLOCKS_FROM` tokens or more are computed by blocks of queries.

    Args:
        qkv: `(b, n, 3 * d)`, queries, keys and values side by side.
        num_heads: int, number of heads.
        scale: float, factor of the queries.
        causal: bool, whether each token attends only to itself and those before it.

    Returns:
        `(b, n, d)`.

    Reference: FlashAttention (arXiv:2205.14135) for the blocks and for dividing by the
    sum of the softmax after the product; here each block has all of the keys.
    """
    if cudnn.is_usable(qkv.dtype, qkv.shape[-1] // (3 * num_heads)):
        return _fused(qkv, num_heads, scale, causal, kernel=cudnn.attention)
    return _self_attention(qkv, num_heads=num_heads, scale=scale, causal=causal)


def _fused(qkv, num_heads, scale, causal, kernel):
    shape = (-1, ops.shape(qkv)[1], num_heads, qkv.shape[-1] // (3 * num_heads))
    query, key, value = (ops.reshape(x, shape) for x in ops.split(qkv, 3, axis=-1))
    mixed = kernel(query, key, value, scale=scale, causal=causal)
    return ops.reshape(mixed, (-1, shape[1], num_heads * shape[3]))


def _torch_kernel(query, key, value, scale, causal):
    return ops.dot_product_attention(query, key, value, scale=scale, is_causal=causal)


@hand_written_gradient(torch=functools.partial(_fused, kernel=_torch_kernel))
def _self_attention(qkv, num_heads, scale, causal):
    query, key, value = split_heads(qkv, 3, num_heads)
    attend = _attend
    if query.shape[2] is not None and query.shape[2] >= BLOCKS_FROM:
        attend = _attend_by_blocks
    mixed, backward = attend(query * scale, key, value, causal)
    mixed = merge_heads(mixed)

    def gradient(upstream):
        row = None
        if not is_half(qkv.dtype):
            (row,) = split_heads(upstream * mixed, 1, num_heads)
            row = ops.sum(row, axis=-1, keepdims=True)
        (upstream,) = split_heads(upstream, 1, num_heads)
        d_query, d_key, d_value = backward(upstream, row)
        d_qkv = [merge_heads(x) for x in (d_query * scale, d_key, d_value)]
        return (ops.concatenate(d_qkv, axis=-1),)

    return mixed, gradient


def _softmax_gradient(weights, d_weights, row):
    """Return the gradient with respect to the logits of a softmax.

    It is `weights * (d_weights - sum(weights * d_weights))`. The sum equals
    `sum(upstream * output)`, which is cheaper and is passed as `row`. Rounded products
    break the equality, so `row` is None in half precision.
    """
    if row is None:
        row = ops.sum(weights * d_weights, axis=-1, keepdims=True)
    return weights * (d_weights - row)


def _logits(query, key, causal, first=0):
    """Return the logits in float32; `first` is the number of the first query."""
    logits = to_float32(_by_transpose(query, key))
    return causal_logits(logits, first) if causal else logits


def _attend(query, key, value, causal):
    """Return the output, and its gradient as a function of `upstream` and `row`."""
    logits = _logits(query, key, causal)
    if _normalize_before_product(value.dtype):
        numerators, row_sum = ops.softmax(logits, axis=-1), 1.0
    else:
        numerators = ops.exp(logits - ops.max(logits, axis=-1, keepdims=True))
        row_sum = ops.sum(numerators, axis=-1, keepdims=True)
    rounded = ops.cast(numerators, value.dtype)
    mixed = ops.matmul(rounded, value)
    mixed = ops.cast(mixed / row_sum, value.dtype)

    def backward(upstream, row):
        if row is None:
            # Half precision: use normalized weights, as the plain formula does.
            weights = numerators / row_sum
            rounded_weights = ops.cast(weights, value.dtype)
        else:
            # Dividing `upstream` and `row` is cheaper than dividing the weights.
            weights, rounded_weights = numerators, rounded
            upstream, row = upstream / row_sum, row / row_sum
        d_value = ops.matmul(transpose_matrix(rounded_weights), upstream)
        d_weights = to_float32(_by_transpose(upstream, value))
        d_logits = ops.cast(_softmax_gradient(weights, d_weights, row), value.dtype)
        d_query = ops.matmul(d_logits, key)
        d_key = ops.matmul(transpose_matrix(d_logits), query)
        return d_query, d_key, d_value

    return mixed, backward


def _normalize_before_product(dtype):
    """Return True if the softmax is normalized before the product with `value`.

    Normalizing after the product divides a smaller tensor and lets XLA fuse everything
    before it. But TensorFlow computes a whole softmax in one pass, and in float16 the
    product of unnormalized weights can overflow.
    """
    half = keras.backend.standardize_dtype(dtype) == "float16"
    return half or keras.backend.backend() == "tensorflow"


def _to_blocks(x):
    """Pad `(b, k, n, d)` and cut it into blocks `(blocks, b, k, BLOCK, d)`."""
    _, heads, length, width = x.shape
    x = ops.pad(x, ((0, 0), (0, 0), (0, -length % BLOCK), (0, 0)))
    x = ops.reshape(x, (-1, heads, -(-length // BLOCK), BLOCK, width))
    return ops.transpose(x, (2, 0, 1, 3, 4))


def _from_blocks(x, length):
    """Undo `_to_blocks`."""
    x = ops.transpose(x, (1, 2, 0, 3, 4))
    shape = (-1, x.shape[1], x.shape[2] * BLOCK, x.shape[4])
    return ops.reshape(x, shape)[:, :, :length]


def _attend_by_blocks(query, key, value, causal):
    """Blockwise variant of `_attend` that does not store the weights.

    It stores their log-sum-exp, except where a softmax is one pass over memory.
    """
    length = query.shape[2]
    by_softmax = _normalize_before_product(value.dtype)

    def attend_block(block):
        query, first = block
        logits = _logits(query, key, causal, first)
        if by_softmax:
            weights = ops.cast(ops.softmax(logits, axis=-1), value.dtype)
            return (ops.matmul(weights, value),)
        highest = ops.max(logits, axis=-1, keepdims=True)
        numerators = ops.exp(logits - highest)
        row_sum = ops.sum(numerators, axis=-1, keepdims=True)
        mixed = ops.matmul(ops.cast(numerators, value.dtype), value)
        return ops.cast(mixed / row_sum, value.dtype), highest + ops.log(row_sum)

    query_blocks = _to_blocks(query)
    firsts = BLOCK * ops.arange(query_blocks.shape[0], dtype="int32")
    mixed, *log_sums = ops.map(attend_block, (query_blocks, firsts))

    def backward_block(carry, block):
        i, d_query, d_key, d_value = carry
        query, upstream = block["query"], block["upstream"]
        logits = _logits(query, key, causal, block["first"])
        if by_softmax:
            weights = ops.softmax(logits, axis=-1)
        else:
            weights = ops.exp(logits - block["log_sum"])
        d_weights = to_float32(_by_transpose(upstream, value))
        d_logits = _softmax_gradient(weights, d_weights, block.get("row"))
        d_logits = ops.cast(d_logits, value.dtype)
        weights = ops.cast(weights, value.dtype)
        d_query_block = ops.expand_dims(ops.matmul(d_logits, key), 0)
        # A plain 0 would be int64 under jax_enable_x64, and JAX requires one dtype.
        zero = ops.zeros_like(i)
        d_query = ops.slice_update(d_query, (i, zero, zero, zero, zero), d_query_block)
        d_key = d_key + to_float32(ops.matmul(transpose_matrix(d_logits), query))
        d_value = d_value + to_float32(ops.matmul(transpose_matrix(weights), upstream))
        return (i + 1, d_query, d_key, d_value), None

    def backward(upstream, row):
        # The carry holds all blocks of d_query because TensorFlow requires the outputs of
        # a scan to have the shapes of its carry.
        carry = (
            ops.convert_to_tensor(0, "int32"),
            ops.zeros_like(query_blocks),
            ops.zeros_like(to_float32(key)),
            ops.zeros_like(to_float32(value)),
        )
        blocks = {
            "query": query_blocks,
            "first": firsts,
            "upstream": _to_blocks(upstream),
        }
        if log_sums:
            (blocks["log_sum"],) = log_sums
        if row is not None:
            blocks["row"] = _to_blocks(row)
        (_, d_query, d_key, d_value), _ = ops.scan(backward_block, carry, blocks)
        return (
            _from_blocks(d_query, length),
            ops.cast(d_key, value.dtype),
            ops.cast(d_value, value.dtype),
        )

    return _from_blocks(mixed, length), backward
