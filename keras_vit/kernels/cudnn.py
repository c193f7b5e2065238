"""Attention by cuDNN's kernel, under JAX on NVIDIA GPUs in half precision.

Plain formula: `keras_vit.layers.attention`.

`keras.ops.dot_product_attention` (Keras 3.15) is not used, because in training it runs
this kernel only for even numbers of tokens: JAX (0.10) refuses gradients of odd numbers,
and Keras logs that error and continues with the plain formula. With a class token the
number is odd.
"""

import re

import keras
from keras import ops

from keras_vit.kernels.precision import is_half

# Ampere, the first generation that the kernel supports.
LEAST_CAPABILITY = (8, 0)
# The widest head before Hopper.
WIDEST_HEAD = 128


def is_usable(dtype, head_dim):
    """Return True if the kernel supports a dtype and a head width on this machine."""
    if keras.backend.backend() != "jax" or not is_half(dtype):
        return False
    fits = head_dim <= WIDEST_HEAD and head_dim % 8 == 0
    return fits and compute_capability() >= LEAST_CAPABILITY


def compute_capability():
    """Return major and minor compute capability of the GPU, or `()` without one."""
    import jax

    # `keras.device` sets the default: a platform, a device, or None.
    default = jax.config.jax_default_device  # type: ignore[attr-defined]
    device = default or jax.devices()[0]
    if isinstance(device, str):
        device = jax.devices(device)[0]
    # AMD's are not numbers.
    text = getattr(device, "compute_capability", "") if device.platform == "gpu" else ""
    return tuple(map(int, text.split("."))) if re.fullmatch(r"\d+\.\d+", text) else ()


def attention(query, key, value, scale, causal):
    """Return `softmax(scale * query @ key^T) @ value`.

    Args:
        query: `(b, n, k, head_dim)`.
        key: `(b, n, k, head_dim)`.
        value: `(b, n, k, head_dim)`.
        scale: float, factor of the queries.
        causal: bool, whether each token attends only to itself and those before it.

    Returns:
        `(b, n, k, head_dim)`.
    """
    import jax

    batch, length, *_ = query.shape
    padding, lengths = length % 2, None
    if padding:
        pad = ((0, 0), (0, padding), (0, 0), (0, 0))
        query, key, value = (ops.pad(x, pad) for x in (query, key, value))
        if not causal:  # No token attends to one behind it.
            lengths = ops.full((batch,), length, dtype="int32")
    mixed = jax.nn.dot_product_attention(
        query,
        key,
        value,
        scale=scale,
        is_causal=causal,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return mixed[:, :length]
