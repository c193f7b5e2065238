"""GELU with hand-written gradients. Plain formulas: `keras_vit.layers.mlp`."""

import functools
import math

import keras
from keras import ops

from keras_vit.kernels.gradient import fuse_elementwise, hand_written_gradient
from keras_vit.kernels.precision import to_float32
from keras_vit.kernels.switch import in_use

_LINEAR = (2 / math.pi) ** 0.5
_CUBIC = 0.044715 * _LINEAR

# Whether `inference_form` writes the tanh form of GELU with a power: from it, runtimes of
# ONNX and LiteRT recognize a GELU, but not from products.
POWERS = False


@hand_written_gradient(torch=lambda x: ops.gelu(x, approximate=True))
def gelu_tanh(x):
    """Return `0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3)))`."""
    x32 = to_float32(x)
    tanh = ops.tanh(x32 * (_LINEAR + _CUBIC * x32 * x32))
    outputs = ops.cast(0.5 * x32 * (1.0 + tanh), x.dtype)
    return outputs, lambda upstream: (_gelu_tanh_gradient(x, upstream),)


@fuse_elementwise
def _gelu_tanh_gradient(x, upstream):
    x32 = to_float32(x)
    square = x32 * x32
    # The gate is 0.5 * (1 + tanh(a)) = sigmoid(2 * a), in a different form from the
    # forward pass. Otherwise XLA shares the tanh and keeps it in memory.
    gate = ops.sigmoid(2.0 * x32 * (_LINEAR + _CUBIC * square))
    slope = 2.0 * x32 * (1.0 - gate) * (_LINEAR + 3.0 * _CUBIC * square)
    return ops.cast(to_float32(upstream) * gate * (1.0 + slope), x.dtype)


@hand_written_gradient(torch=lambda x: ops.gelu(x, approximate=False))
def gelu_exact(x):
    """Return `0.5 * x * (1 + erf(x / sqrt(2)))`."""
    outputs = 0.5 * x * (1.0 + ops.erf(x * 0.5**0.5))
    return outputs, lambda upstream: (_gelu_exact_gradient(x, upstream),)


@fuse_elementwise
def _gelu_exact_gradient(x, upstream):
    x32 = to_float32(x)
    # erf is odd. With the opposite sign, XLA does not recognize the erf of the forward
    # pass, which it would otherwise keep in memory.
    cumulative = 0.5 * (1.0 - ops.erf(x32 * -(0.5**0.5)))
    density = ops.exp(-0.5 * x32 * x32) * (2 * math.pi) ** -0.5
    return ops.cast(to_float32(upstream) * (cumulative + x32 * density), x.dtype)


def inference_form(activation):
    """Return the form of an activation that is fastest where no gradient is needed.

    TensorFlow runs a matrix product, its bias and the plain form of GELU as one kernel.

    Args:
        activation: function of a tensor, with or without a fast form.
    """
    if POWERS and getattr(activation, "kernel", None) is gelu_tanh:
        return functools.partial(ops.gelu, approximate=True)
    if in_use() == "plain" or keras.backend.backend() == "torch":
        return activation
    return getattr(activation, "plain", activation)
