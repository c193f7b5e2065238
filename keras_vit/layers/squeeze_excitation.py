"""Channel attention: T2T-ViT's block with squeeze and excitation."""

import keras
from keras import ops

from keras_vit.layers.adaptation import Composite
from keras_vit.layers.attention import SelfAttention
from keras_vit.layers.block import TransformerBlock
from keras_vit.layers.dense import Dense
from keras_vit.layers.precision import wide


@keras.saving.register_keras_serializable(package="keras_vit")
class SqueezeExcitation(Composite):
    """Weighs channels: `x * sigmoid(W2 relu(W1 mean(x)))`, the mean over all tokens.

    Input and output: `(b, n, d)`, any float dtype; the mean in float32.

    Args:
        reduction: int, how many times narrower than `d` the hidden layer is.

    Example:

    >>> import keras, keras_vit
    >>> tokens = keras.random.uniform((2, 5, 32))
    >>> tuple(keras_vit.layers.SqueezeExcitation()(tokens).shape)
    (2, 5, 32)

    Source: Squeeze-and-Excitation Networks (arXiv:1709.01507), without biases, as in
    T2T-ViT (arXiv:2101.11986) section 3.2.
    """

    def __init__(self, reduction: int = 16, **kwargs):
        super().__init__(**kwargs)
        self.reduction = reduction

    def build(self, input_shape):
        width = input_shape[-1]
        if width < self.reduction:
            raise ValueError(
                f"SqueezeExcitation with reduction={self.reduction} needs tokens of that "
                f"width (hidden_dim) or more; received {width}."
            )

        def dense(units, activation, name):
            return Dense(
                units,
                activation=activation,
                use_bias=False,
                dtype=self.dtype_policy,
                name=name,
            )

        self.squeeze = dense(width // self.reduction, "relu", "squeeze")
        self.squeeze.build((None, width))
        self.excite = dense(width, "sigmoid", "excite")
        self.excite.build((None, width // self.reduction))
        self.built = True

    def call(self, tokens):
        # A float16 sum over thousands of tokens overflows.
        mean = ops.cast(ops.mean(wide(tokens), axis=1), tokens.dtype)
        return tokens * self.excite(self.squeeze(mean))[:, None]

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "reduction": self.reduction}


@keras.saving.register_keras_serializable(package="keras_vit")
class SqueezeExcitationAttention(SelfAttention):
    """`SelfAttention`, and `SqueezeExcitation` of its output."""

    def build(self, input_shape):
        self.squeeze_excitation = SqueezeExcitation(
            dtype=self.dtype_policy, name="squeeze_excitation"
        )
        self.squeeze_excitation.build(input_shape)
        super().build(input_shape)

    def call(self, tokens, training=None):
        return self.squeeze_excitation(super().call(tokens, training=training))


@keras.saving.register_keras_serializable(package="keras_vit")
class SqueezeExcitationBlock(TransformerBlock):
    """A `TransformerBlock` whose attention weighs its channels too.

    Input and output: `(b, n, d)`, `d` 16 or more.

    Args:
        As for `TransformerBlock`.

    Example:

    >>> import keras, keras_vit
    >>> block = keras_vit.layers.SqueezeExcitationBlock(num_heads=4, mlp_dim=128)
    >>> tuple(block(keras.random.uniform((2, 5, 64))).shape)
    (2, 5, 64)

    Source: T2T-ViT (arXiv:2101.11986) section 3.2, T2T-ViT-SE.
    """

    attention_class = SqueezeExcitationAttention
