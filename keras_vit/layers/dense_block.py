"""Dense connections: a block that adds channels in place of changing them."""

import keras
from keras import ops

from keras_vit.layers.block import TransformerBlock
from keras_vit.layers.dense import Dense


@keras.saving.register_keras_serializable(package="keras_vit")
class DenseBlock(TransformerBlock):
    """A `TransformerBlock` whose output is projected, and appended to its input.

    Input: `(b, n, d)`. Output: `(b, n, d + growth_rate)`.

    Args:
        growth_rate: int, channels that the block adds.
        **kwargs: as for `TransformerBlock`.

    Example:

    >>> import keras, keras_vit
    >>> block = keras_vit.layers.DenseBlock(growth_rate=16, num_heads=4, mlp_dim=128)
    >>> tuple(block(keras.random.uniform((2, 5, 64))).shape)
    (2, 5, 80)

    Source: DenseNet (arXiv:1608.06993), as in T2T-ViT (arXiv:2101.11986) section 3.2.
    """

    def __init__(self, growth_rate: int, **kwargs):
        super().__init__(**kwargs)
        self.growth_rate = growth_rate
        self.growth = Dense(growth_rate, dtype=self.dtype_policy, name="growth")

    def build(self, input_shape):
        super().build(input_shape)
        self.growth.build(input_shape)

    def _transform(self, x, training):
        new = self.growth(super()._transform(x, training))
        return ops.concatenate([x, new], axis=-1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[-1] + self.growth_rate)

    def get_config(self):
        return {**super().get_config(), "growth_rate": self.growth_rate}
