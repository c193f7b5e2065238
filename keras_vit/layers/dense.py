"""A dense layer whose product has two axes, whatever its input has."""

import keras
from keras import ops

from keras_vit.layers.initial_values import InitialValues


class AdaptableDense(keras.layers.Dense):
    """A `keras.layers.Dense` whose subclasses can be quantized and adapted by LoRA."""

    def quantize(self, mode=None, type_check=True, config=None):
        # Keras quantizes exact instances of its Dense only: a subclass may compute
        # something else. The subclasses here compute the same product.
        del type_check
        return super().quantize(mode, type_check=False, config=config)

    def load_own_variables(self, store):
        super().load_own_variables(store)
        if self.lora_enabled:
            # Files hold the merged kernel, and Keras sets both factors to zero: neither
            # would ever get a gradient again. One factor at zero leaves outputs alone.
            shape = self.lora_kernel_a.shape
            self.lora_kernel_a.assign(keras.initializers.HeUniform()(shape))


@keras.saving.register_keras_serializable(package="keras_vit")
class Dense(InitialValues, AdaptableDense):
    """`keras.layers.Dense`, computed over `(b * n, d)` in place of `(b, n, d)`.

    The same numbers, arguments and weights. A product of matrices keeps its gradients
    products of matrices. With three axes XLA copies and transposes for the kernel's
    gradient, and fuses into that copy the sums of residual branches of all later
    blocks, once for each block: see docs/performance.md.

    Input: `(b, ..., d)`. Output: `(b, ..., units)`.

    Args:
        units: int, width of the output.
        **kwargs: as for `keras.layers.Dense`.

    Example:

    >>> import keras, keras_vit
    >>> tuple(keras_vit.layers.Dense(3)(keras.random.uniform((2, 5, 8))).shape)
    (2, 5, 3)
    """

    def call(self, inputs, training=None):
        if len(inputs.shape) == 2:
            return super().call(inputs, training=training)
        between = ops.shape(inputs)[1:-1]
        outputs = super().call(
            ops.reshape(inputs, (-1, inputs.shape[-1])), training=training
        )
        return ops.reshape(outputs, (-1, *between, self.units))
