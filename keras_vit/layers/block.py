"""The pre-norm Transformer block."""

import keras

from keras_vit.layers.adaptation import Composite
from keras_vit.layers.attention import SelfAttention
from keras_vit.layers.mlp import MLP
from keras_vit.layers.norm import LayerNorm
from keras_vit.layers.recompute import recompute
from keras_vit.layers.residual import LayerScale, StochasticDepth


@keras.saving.register_keras_serializable(package="keras_vit")
class TransformerBlock(Composite):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`.

    Each branch may be scaled (LayerScale) and dropped (stochastic depth).

    Input and output: `(b, n, d)`, any float dtype. Normalisation, like the softmax, is
    computed in float32.

    Args:
        num_heads: int, number of attention heads; must divide `d`.
        mlp_dim: int, width of the MLP.
        activation: `"gelu_tanh"`, `"gelu"` (exact) or a name of `keras.activations`.
        layer_norm_epsilon: float, added to the variance.
        qkv_bias: bool, whether q, k and v have biases.
        layer_scale: None, or the initial value of LayerScale.
        dropout_rate: dropout after each dense layer but q, k and v.
        attention_dropout_rate: dropout on the attention weights.
        stochastic_depth_rate: probability that a branch is dropped for an image.
        relative_grid_shape: None, or the `(gh, gw)` of the grid for relative
            positions.
        remat: bool, whether training computes the block a second time in the backward
            pass, in place of keeping what is between input and output.

    Raises:
        ValueError: `num_heads` does not divide `d`, or an unknown activation.

    Example:

    >>> import keras, keras_vit
    >>> block = keras_vit.layers.TransformerBlock(num_heads=4, mlp_dim=128)
    >>> tuple(block(keras.random.uniform((2, 5, 64))).shape)
    (2, 5, 64)

    Source: ViT (arXiv:2010.11929) equations 2 and 3.
    """

    # What a subclass may have of its own.
    attention_class = SelfAttention
    mlp_class = MLP

    def __init__(
        self,
        num_heads: int,
        mlp_dim: int,
        activation: str = "gelu_tanh",
        layer_norm_epsilon: float = 1e-6,
        qkv_bias: bool = True,
        layer_scale: float | None = None,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        stochastic_depth_rate: float = 0.0,
        relative_grid_shape: tuple[int, int] | None = None,
        remat: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self._config = {
            "num_heads": num_heads,
            "mlp_dim": mlp_dim,
            "activation": activation,
            "layer_norm_epsilon": layer_norm_epsilon,
            "qkv_bias": qkv_bias,
            "layer_scale": layer_scale,
            "dropout_rate": dropout_rate,
            "attention_dropout_rate": attention_dropout_rate,
            "stochastic_depth_rate": stochastic_depth_rate,
            "relative_grid_shape": relative_grid_shape and tuple(relative_grid_shape),
            "remat": remat,
        }
        self.remat = remat
        dtype = self.dtype_policy

        def norm(name):
            return LayerNorm(epsilon=layer_norm_epsilon, dtype=dtype, name=name)

        def scale(name):
            if layer_scale is None:
                return None
            return LayerScale(layer_scale, dtype=dtype, name=name)

        self.attention_norm = norm("attention_norm")
        self.attention = self.attention_class(
            num_heads,
            use_qkv_bias=qkv_bias,
            dropout_rate=attention_dropout_rate,
            relative_grid_shape=relative_grid_shape,
            dtype=dtype,
            name="attention",
        )
        self.attention_dropout = keras.layers.Dropout(
            dropout_rate, dtype=dtype, name="attention_dropout"
        )
        self.attention_scale = scale("attention_scale")
        self.mlp_norm = norm("mlp_norm")
        self.mlp = self.mlp_class(
            mlp_dim, activation, dropout_rate, dtype=dtype, name="mlp"
        )
        self.mlp_scale = scale("mlp_scale")
        self.stochastic_depth = StochasticDepth(
            stochastic_depth_rate, dtype=dtype, name="stochastic_depth"
        )

    def build(self, input_shape):
        for layer in (
            self.attention_norm,
            self.attention,
            self.attention_scale,
            self.mlp_norm,
            self.mlp,
            self.mlp_scale,
        ):
            if layer is not None:
                layer.build(input_shape)
        self.built = True

    def call(self, x, training=None):
        if self.remat and training:
            return recompute(self, lambda x: self._transform(x, training), x)
        return self._transform(x, training)

    def attention_weights(self, x):
        """What the block's attention looks at, in inference.

        Args:
            x: `(b, n, d)`, the input of the block.

        Returns:
            `(b, num_heads, n, n)`, float32: for each query a row that sums to 1.

        Example:

        >>> import keras, keras_vit
        >>> model = keras_vit.ViTTi16(input_shape=(32, 48, 3), classes=10)
        >>> block = model.get_layer("block_5")
        >>> tokens = keras.Model(model.input, block.input)
        >>> images = model.preprocessor(keras.random.uniform((1, 32, 48, 3), maxval=255))
        >>> tuple(block.attention_weights(tokens(images)).shape)
        (1, 3, 7, 7)
        """
        return self.attention.attention_weights(self.attention_norm(x))

    def _transform(self, x, training):
        branch = self.attention(self.attention_norm(x), training=training)
        branch = self.attention_dropout(branch, training=training)
        x = self._add(x, branch, self.attention_scale, training)
        branch = self.mlp(self.mlp_norm(x), training=training)
        return self._add(x, branch, self.mlp_scale, training)

    def _add(self, x, branch, scale, training):
        if scale is not None:
            branch = scale(branch)
        return x + self.stochastic_depth(branch, training=training)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), **self._config}
