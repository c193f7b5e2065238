"""Projection head of self-distillation (DINO)."""

import keras
from keras import ops

from keras_vit.layers import Dense
from keras_vit.layers.base import Composite


@keras.saving.register_keras_serializable(package="keras_vit")
class DistillationHead(Composite):
    """MLP with a normalized bottleneck, and cosine similarities to prototypes.

    Two hidden layers with GELU and a linear one to the bottleneck, whose output is
    divided by its norm. The last layer has no bias, and each of its columns is divided by
    its norm, so that the outputs are cosine similarities.

    Input: `(b, d)`. Output: `(b, prototypes)`.

    Args:
        prototypes: int, number of outputs.
        head_dim: int, width of the hidden layers.
        bottleneck_dim: int, width of the bottleneck.

    Reference: DINO (arXiv:2104.14294) section 3.1 and appendix C, without batch norm and
    with a weight-normalized last layer of fixed length (`norm_last_layer=True`).
    """

    def __init__(self, prototypes: int, head_dim: int, bottleneck_dim: int, **kwargs):
        super().__init__(**kwargs)
        self.prototypes = prototypes
        self.head_dim = head_dim
        self.bottleneck_dim = bottleneck_dim

        def dense(units, name):
            # Its code initializes all layers alike; biases start at zero.
            normal = keras.initializers.TruncatedNormal(stddev=0.02)
            return Dense(
                units, kernel_initializer=normal, dtype=self.dtype_policy, name=name
            )

        self.hidden = [dense(head_dim, f"hidden_{index}") for index in range(2)]
        self.bottleneck = dense(bottleneck_dim, "bottleneck")

    def build(self, input_shape):
        for layer in (*self.hidden, self.bottleneck):
            layer.build(input_shape)
            input_shape = layer.compute_output_shape(input_shape)
        self.last = self.add_weight(
            name="prototypes",
            shape=(self.bottleneck_dim, self.prototypes),
            initializer=keras.initializers.RandomNormal(stddev=self.bottleneck_dim**-0.5),
        )

    def call(self, x, frozen=False):
        for layer in self.hidden:
            x = ops.gelu(layer(x), approximate=False)
        x = normalized(self.bottleneck(x), axis=-1)
        last = ops.convert_to_tensor(self.last)
        # In the first epoch, the gradient of the last layer is 0.
        last = ops.where(frozen, ops.stop_gradient(last), last)
        return ops.matmul(x, normalized(last, axis=0))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.prototypes)


def normalized(x, axis):
    """Return vectors along an axis, divided by their norms."""
    squares = ops.sum(ops.square(x), axis=axis, keepdims=True)
    # The gradient of a square root is infinite at 0.
    return x * ops.rsqrt(ops.maximum(squares, 1e-24))
