"""LayerNorm with a hand-written gradient. Plain formula: `keras_vit.layers.norms`."""

from keras import ops

from keras_vit.kernels.gradient import hand_written_gradient
from keras_vit.kernels.precision import to_float32


def layer_norm(x, gamma, beta, epsilon):
    """Return `(x - mean) / sqrt(variance + epsilon) * gamma + beta`.

    The backward pass stores `x` and two numbers for each row.
    """
    # Reshaping makes tensors of them: TensorFlow's custom gradients refuse variables.
    gamma, beta = ops.reshape(gamma, (-1,)), ops.reshape(beta, (-1,))
    return _layer_norm(x, gamma, beta, epsilon=epsilon)


@hand_written_gradient(torch=ops.layer_normalization)
def _layer_norm(x, gamma, beta, epsilon):
    x32 = to_float32(x)
    mean = ops.mean(x32, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(x32 - mean), axis=-1, keepdims=True)
    inverse_deviation = ops.rsqrt(variance + epsilon)
    outputs = (x32 - mean) * inverse_deviation * to_float32(gamma)
    outputs = ops.cast(outputs + to_float32(beta), x.dtype)

    def gradient(upstream):
        upstream = to_float32(upstream)
        # Written in a different form from the forward pass. Otherwise XLA shares the
        # normalized values and keeps them in memory.
        normal = to_float32(x) * inverse_deviation - mean * inverse_deviation
        inner = upstream * to_float32(gamma)
        shift = ops.mean(inner, axis=-1, keepdims=True)
        slope = ops.mean(inner * normal, axis=-1, keepdims=True)
        d_x = inverse_deviation * (inner - shift - normal * slope)
        rows = tuple(range(len(x.shape) - 1))
        return (
            ops.cast(d_x, x.dtype),
            ops.cast(ops.sum(upstream * normal, axis=rows), gamma.dtype),
            ops.cast(ops.sum(upstream, axis=rows), beta.dtype),
        )

    return outputs, gradient
