"""The dense layer."""

import keras
from keras import ops

from keras_vit.kernels.initial_values import InitialValues
from keras_vit.kernels.rows import over_rows
from keras_vit.kernels.switch import in_use


class AdaptableDense(keras.layers.Dense):
    """A `keras.layers.Dense` whose subclasses support quantization and LoRA."""

    def call(self, inputs, training=None):
        if not self.lora_enabled or in_use() == "plain":
            return super().call(inputs, training=training)
        # Keras adds the update to the kernel, whose gradient the backward pass then
        # computes in full: as much work and memory as without LoRA.
        update = ops.matmul(inputs, self.lora_kernel_a)
        update = ops.matmul(
            update * (self.lora_alpha / self.lora_rank), self.lora_kernel_b
        )
        x = ops.matmul(inputs, self._kernel) + update
        if self.bias is not None:
            x = ops.add(x, self.bias)
        return x if self.activation is None else self.activation(x)

    def quantize(self, mode=None, type_check=True, config=None):
        # Keras quantizes only exact instances of its Dense, because subclasses may
        # compute something else. The subclasses here compute the same product.
        del type_check
        return super().quantize(mode, type_check=False, config=config)

    def load_own_variables(self, store):
        super().load_own_variables(store)
        if self.lora_enabled:
            # Files hold the merged kernel, and Keras sets both factors to zero, so that
            # neither would ever get a gradient. One zero factor is enough to keep the
            # outputs.
            shape = self.lora_kernel_a.shape
            self.lora_kernel_a.assign(keras.initializers.HeUniform()(shape))


@keras.saving.register_keras_serializable(package="keras_vit")
class Dense(InitialValues, AdaptableDense):
    """`activation(x @ kernel + bias)`: a `keras.layers.Dense` that trains faster.

    The arguments are the same as for `keras.layers.Dense`, and so are the weights and the
    values.

    Input: `(b, ..., d)`. Output: `(b, ..., units)`.

    Example:

    >>> import keras, keras_vit
    >>> tuple(keras_vit.layers.Dense(3)(keras.random.uniform((2, 5, 8))).shape)
    (2, 5, 3)
    """

    @over_rows
    def call(self, inputs, training=None):
        return super().call(inputs, training=training)
