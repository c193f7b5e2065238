"""Tokens to a prediction: pooling, pre-logits, classifier."""

import keras
from keras import ops

from keras_vit.layers.adaptation import Composite
from keras_vit.layers.attention import head_dim
from keras_vit.layers.dense import AdaptableDense, Dense
from keras_vit.layers.dot_product_attention import dot_product_attention
from keras_vit.layers.initial_values import BudgetedLayer, InitialValues
from keras_vit.layers.mlp import MLP
from keras_vit.layers.norm import LayerNorm
from keras_vit.layers.precision import wide


@keras.saving.register_keras_serializable(package="keras_vit")
class TokenPooling(keras.layers.Layer):
    """Takes one token: the first, which is the class token, or another.

    Input: `(b, n, d)`. Output: `(b, d)`.

    The paper finds that this head and global average pooling want different learning
    rates: with the class token's, pooling looks much worse than it is. Tune the rate
    for each before comparing them.

    Args:
        index: int, which token.

    Example:

    >>> import keras, keras_vit
    >>> tuple(keras_vit.layers.TokenPooling()(keras.random.uniform((2, 5, 8))).shape)
    (2, 8)

    Source: ViT (arXiv:2010.11929) equation 4, appendix D.3.
    """

    def __init__(self, index: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.index = index

    def call(self, tokens):
        return tokens[:, self.index]

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[2])

    def get_config(self):
        return {**super().get_config(), "index": self.index}


@keras.saving.register_keras_serializable(package="keras_vit")
class GlobalAveragePooling(keras.layers.Layer):
    """Averages the grid tokens (GAP), in float32.

    Input: `(b, n, d)`. Output: `(b, d)`.

    It works as well as the class token, but the paper finds that the two want
    different learning rates: with the class token's, this head looks much worse than
    it is. Tune the rate for each before comparing them.

    Args:
        num_prefix_tokens: int, tokens before the grid, which are left out.

    Example:

    >>> import keras, keras_vit
    >>> pooling = keras_vit.layers.GlobalAveragePooling(num_prefix_tokens=1)
    >>> tuple(pooling(keras.random.uniform((2, 5, 8))).shape)
    (2, 8)

    Source: ViT (arXiv:2010.11929) appendix D.3. Keras's `GlobalAveragePooling1D` has no
    way to leave out prefix tokens but a mask, which would follow the tokens.
    """

    def __init__(self, num_prefix_tokens: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.num_prefix_tokens = num_prefix_tokens

    def build(self, input_shape):
        if input_shape[1] <= self.num_prefix_tokens:
            raise ValueError(
                f"GlobalAveragePooling with num_prefix_tokens={self.num_prefix_tokens} "
                f"needs more tokens than that; received shape {tuple(input_shape)}."
            )
        self.built = True

    def call(self, tokens):
        grid = tokens[:, self.num_prefix_tokens :]
        # A float16 sum over thousands of tokens overflows.
        return ops.cast(ops.mean(wide(grid), axis=1), grid.dtype)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[2])

    def get_config(self):
        return {**super().get_config(), "num_prefix_tokens": self.num_prefix_tokens}


@keras.saving.register_keras_serializable(package="keras_vit")
class AttentionPooling(InitialValues, Composite):
    """One learned probe attends to the grid tokens (MAP), then a residual MLP.

    `x = attention(probe, tokens)`, then `x + mlp(norm(x))`.

    Input: `(b, n, d)`. Output: `(b, d)`.

    Args:
        num_heads: int, number of attention heads; must divide `d`.
        mlp_dim: int, width of the MLP.
        num_prefix_tokens: int, tokens before the grid, which are left out.
        activation: activation of the MLP, see `MLP`.
        layer_norm_epsilon: float, added to the variance.

    Raises:
        ValueError: `num_heads` does not divide `d`, or an unknown activation.

    Example:

    >>> import keras, keras_vit
    >>> pooling = keras_vit.layers.AttentionPooling(num_heads=2, mlp_dim=16)
    >>> tuple(pooling(keras.random.uniform((2, 5, 8))).shape)
    (2, 8)

    Source: Set Transformer (arXiv:1810.00825) section 3.2, as in Scaling ViT
    (arXiv:2106.04560) section 3.1 and big_vision's `MAPHead`.
    """

    def __init__(
        self,
        num_heads: int,
        mlp_dim: int,
        num_prefix_tokens: int = 0,
        activation: str = "gelu_tanh",
        layer_norm_epsilon: float = 1e-6,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.num_prefix_tokens = num_prefix_tokens
        self.activation = activation
        self.layer_norm_epsilon = layer_norm_epsilon
        self.norm = LayerNorm(
            epsilon=layer_norm_epsilon, dtype=self.dtype_policy, name="norm"
        )
        self.mlp = MLP(mlp_dim, activation, dtype=self.dtype_policy, name="mlp")

    def build(self, input_shape):
        width = input_shape[-1]
        self.scale = head_dim(width, self.num_heads) ** -0.5

        def dense(units, name, **kwargs):
            layer = Dense(units, dtype=self.dtype_policy, name=name, **kwargs)
            layer.build((None, 1, width))
            return layer

        self.probe = self.add_weight(
            name="probe", shape=(1, 1, width), initializer="glorot_uniform"
        )
        self.query = dense(width, "query")
        self.key_value = dense(
            2 * width,
            "key_value",
            # Glorot uniform of each of the two alone, as in SelfAttention.
            kernel_initializer=keras.initializers.VarianceScaling(
                scale=1.5, mode="fan_avg", distribution="uniform"
            ),
        )
        self.projection = dense(width, "projection")
        self.norm.build((None, width))
        self.mlp.build((None, width))
        self.built = True

    def call(self, tokens):
        width, heads = tokens.shape[-1], self.num_heads

        def split(x, parts):
            x = ops.reshape(x, (-1, x.shape[1], parts, heads, width // heads))
            return ops.unstack(ops.transpose(x, (2, 0, 3, 1, 4)), parts)

        grid = tokens[:, self.num_prefix_tokens :]
        (query,) = split(self.query(ops.cast(self.probe, grid.dtype)), 1)
        key, value = split(self.key_value(grid), 2)
        mixed = dot_product_attention(query * self.scale, key, value)
        x = self.projection(ops.reshape(mixed, (-1, width)))
        return x + self.mlp(self.norm(x))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[2])

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "mlp_dim": self.mlp_dim,
            "num_prefix_tokens": self.num_prefix_tokens,
            "activation": self.activation,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }


@keras.saving.register_keras_serializable(package="keras_vit")
class PreLogits(BudgetedLayer, AdaptableDense):
    """The hidden layer of the pretraining head: dense, then tanh.

    Fine-tuning drops it. A `keras.layers.Dense` with other defaults.

    Input: `(b, d)`. Output: `(b, units)`.

    Args:
        units: int, the model's `representation_size`.
        **kwargs: as for `keras.layers.Dense`.

    Example:

    >>> import keras, keras_vit
    >>> tuple(keras_vit.layers.PreLogits(16)(keras.random.uniform((2, 8))).shape)
    (2, 16)

    Source: ViT (arXiv:2010.11929) section 3.1, "classification head".
    """

    def __init__(
        self,
        units: int,
        activation: str = "tanh",
        kernel_initializer="lecun_normal",
        **kwargs,
    ):
        super().__init__(
            units,
            activation=activation,
            kernel_initializer=kernel_initializer,
            **kwargs,
        )


@keras.saving.register_keras_serializable(package="keras_vit")
class Classifier(BudgetedLayer, AdaptableDense):
    """The last linear layer, with a kernel that starts at zero, in float32.

    A zero kernel makes fine-tuning start from the same loss whatever the backbone
    gives. A `keras.layers.Dense` with other defaults.

    Input: `(b, d)`. Output: `(b, units)`, float32 under every global policy.

    Args:
        units: int, number of classes.
        bias_initializer: `"zeros"`, or for a sigmoid loss a constant such as
            `keras.initializers.Constant(-10.0)`, so that training starts from few
            positives.
        **kwargs: as for `keras.layers.Dense`.

    Example:

    >>> import keras, keras_vit
    >>> features = keras.random.uniform((1, 8))
    >>> head = keras_vit.layers.Classifier(2, activation="softmax")
    >>> keras.ops.convert_to_numpy(head(features)).tolist()
    [[0.5, 0.5]]

    Source: ViT (arXiv:2010.11929) section 3.2; bias: AugReg (arXiv:2106.10270).
    """

    def __init__(
        self,
        units: int,
        kernel_initializer="zeros",
        bias_initializer="zeros",
        dtype="float32",
        **kwargs,
    ):
        super().__init__(
            units,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            dtype=dtype,
            **kwargs,
        )
