"""Layer normalisation with a gradient in few passes over memory."""

import functools

import keras
from keras import ops

from keras_vit.layers.gradient import hand_written_gradient
from keras_vit.layers.precision import wide


@functools.cache
def layer_norm(epsilon):
    """`(x - mean) / sqrt(variance + epsilon) * gamma + beta`, as a function.

    Statistics over the last axis, everything in float32 (float64 stays); the output in
    the dtype of `x`. For the backward pass it keeps `x` and two numbers a row.

    Args:
        epsilon: float, added to the variance.

    Returns:
        A function of `x (..., d)`, `gamma (d,)` and `beta (d,)`.

    Source: Layer Normalization (arXiv:1607.06450) equations 3 and 4.
    """

    def plain(x, gamma, beta):
        return ops.layer_normalization(x, gamma, beta, epsilon=epsilon)

    @hand_written_gradient(plain)
    def normalize(x, gamma, beta):
        mean = ops.mean(wide(x), axis=-1, keepdims=True)
        variance = ops.mean(ops.square(wide(x) - mean), axis=-1, keepdims=True)
        inverse_deviation = ops.rsqrt(variance + epsilon)
        outputs = (wide(x) - mean) * inverse_deviation * wide(gamma)
        outputs = ops.cast(outputs + wide(beta), x.dtype)

        def gradient(upstream):
            upstream = wide(upstream)
            # Not as above: XLA would find it there, and keep it for the purpose.
            normal = wide(x) * inverse_deviation - mean * inverse_deviation
            inner = upstream * wide(gamma)
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

    return normalize


@keras.saving.register_keras_serializable(package="keras_vit")
class LayerNorm(keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` over the last axis, faster to train.

    The same numbers and weights. Input `(..., d)`, any float dtype; output of the same
    shape in the policy's compute dtype; statistics in float32.

    Args:
        epsilon: float, added to the variance.
        **kwargs: as for every layer.

    Example:

    >>> import keras, keras_vit
    >>> x = keras.ops.convert_to_tensor([[1.0, 3.0]])
    >>> keras.ops.convert_to_numpy(keras_vit.layers.LayerNorm()(x)).round(3).tolist()
    [[-1.0, 1.0]]

    Source: Layer Normalization (arXiv:1607.06450).
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs):
        super().__init__(epsilon=epsilon, **kwargs)

    def call(self, inputs):
        # Reshaped into tensors: TensorFlow's custom gradients refuse variables.
        gamma, beta = ops.reshape(self.gamma, (-1,)), ops.reshape(self.beta, (-1,))
        outputs = layer_norm(self.epsilon)(inputs, gamma, beta)
        # Keras does not cast the inputs of this layer to the compute dtype.
        return ops.cast(outputs, self.compute_dtype)

    def get_config(self):
        return {**keras.layers.Layer.get_config(self), "epsilon": self.epsilon}
