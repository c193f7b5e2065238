"""Norms over the last axis, with statistics in float32."""

import keras
from keras import ops

from keras_vit.choices import check_choice
from keras_vit.kernels import norm as kernels
from keras_vit.kernels.precision import to_float32
from keras_vit.kernels.switch import fast_form
from keras_vit.layers.base import Layer, copy_of


@fast_form(kernels.layer_norm)
def layer_norm(x, gamma, beta, epsilon):
    """Return `(x - mean) / sqrt(variance + epsilon) * gamma + beta`.

    Mean and variance are taken over the last axis. Everything is computed in float32
    (float64 is kept); the output has the dtype of `x`.

    Args:
        x: `(..., d)`.
        gamma: `(d,)`.
        beta: `(d,)`.
        epsilon: float, added to the variance.

    Reference: Layer Normalization (arXiv:1607.06450) equations 3 and 4.
    """
    centered = to_float32(x) - ops.mean(to_float32(x), axis=-1, keepdims=True)
    variance = ops.mean(ops.square(centered), axis=-1, keepdims=True)
    normal = centered * ops.rsqrt(variance + epsilon)
    return ops.cast(normal * to_float32(gamma) + to_float32(beta), x.dtype)


@keras.saving.register_keras_serializable(package="keras_vit")
class LayerNorm(keras.layers.LayerNormalization):
    """Layer normalization over the last axis, with statistics in float32.

    Values and weights are those of `keras.layers.LayerNormalization`. Input `(..., d)`,
    any float dtype; output of the same shape in the policy's compute dtype.

    Args:
        epsilon: float, added to the variance.
        affine: bool, whether the output is multiplied by a learned `gamma` and shifted
            by a learned `beta`.
        **kwargs: as for every layer.

    Example:

    >>> import keras, keras_vit
    >>> x = keras.ops.convert_to_tensor([[1.0, 3.0]])
    >>> keras.ops.convert_to_numpy(keras_vit.layers.LayerNorm()(x)).round(3).tolist()
    [[-1.0, 1.0]]

    Reference: Layer Normalization (arXiv:1607.06450).
    """

    def __init__(self, epsilon: float = 1e-6, affine: bool = True, **kwargs):
        super().__init__(epsilon=epsilon, center=affine, scale=affine, **kwargs)
        self.affine = affine

    def call(self, inputs):
        gamma, beta = self.gamma, self.beta
        if not self.affine:
            gamma = ops.ones((inputs.shape[-1],), to_float32(inputs).dtype)
            beta = ops.zeros_like(gamma)
        outputs = layer_norm(inputs, gamma, beta, self.epsilon)
        # Keras does not cast the inputs of this layer to the compute dtype.
        return ops.cast(outputs, self.compute_dtype)

    def get_config(self):
        config = keras.layers.Layer.get_config(self)
        return {**config, "epsilon": self.epsilon, "affine": self.affine}


@keras.saving.register_keras_serializable(package="keras_vit")
class RMSNorm(Layer):
    """`x / sqrt(mean(x ** 2) + epsilon) * gamma`, computed in float32.

    Input and output: `(..., d)`, any float dtype.

    Args:
        epsilon: float, added to the mean of the squares.
        affine: bool, whether the output is multiplied by a learned `gamma`.

    Example:

    >>> import keras, keras_vit
    >>> x = keras.ops.convert_to_tensor([[3.0, 4.0]])
    >>> print(keras.ops.convert_to_numpy(keras_vit.layers.RMSNorm()(x)).round(3))
    [[0.849 1.131]]

    Reference: Root Mean Square Layer Normalization (arXiv:1910.07467).
    """

    def __init__(self, epsilon: float = 1e-6, affine: bool = True, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.affine = affine

    def build(self, input_shape):
        if self.affine:
            self.gamma = self.add_weight(
                name="gamma",
                shape=(input_shape[-1],),
                initializer="ones",
                autocast=False,  # It is multiplied in float32.
            )

    def call(self, inputs):
        x = to_float32(inputs)
        mean = ops.mean(ops.square(x), axis=-1, keepdims=True)
        x = x * ops.rsqrt(mean + self.epsilon)
        if self.affine:
            x = x * to_float32(self.gamma)
        return ops.cast(x, self.compute_dtype)


# Norms by their name in constructors.
NORMS = {"layer": LayerNorm, "rms": RMSNorm}


def make_norm(norm, epsilon, **kwargs):
    """Return a new norm.

    Args:
        norm: `"layer"`, `"rms"`, or a layer with arguments `epsilon` and `affine`, of
            which a copy is made.
        epsilon: float, added to the variance.
        **kwargs: name and dtype of the layer.
    """
    if isinstance(norm, str):
        check_choice("norm", norm, NORMS)
        return NORMS[norm](epsilon=epsilon, **kwargs)
    return copy_of("norm", norm, (LayerNorm, RMSNorm), epsilon=epsilon, **kwargs)
