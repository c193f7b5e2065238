"""The pre-norm Transformer block, with its norm and residual branches."""

import keras
from keras import ops

from keras_vit.kernels import norm as kernels
from keras_vit.kernels.precision import to_float32
from keras_vit.kernels.recompute import recompute
from keras_vit.kernels.switch import fast_form
from keras_vit.layers.attention import SelfAttention
from keras_vit.layers.base import Composite, Layer
from keras_vit.layers.mlp import MLP


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
        **kwargs: as for every layer.

    Example:

    >>> import keras, keras_vit
    >>> x = keras.ops.convert_to_tensor([[1.0, 3.0]])
    >>> keras.ops.convert_to_numpy(keras_vit.layers.LayerNorm()(x)).round(3).tolist()
    [[-1.0, 1.0]]

    Reference: Layer Normalization (arXiv:1607.06450).
    """

    def __init__(self, epsilon: float = 1e-6, **kwargs):
        super().__init__(epsilon=epsilon, **kwargs)

    def call(self, inputs):
        outputs = layer_norm(inputs, self.gamma, self.beta, self.epsilon)
        # Keras does not cast the inputs of this layer to the compute dtype.
        return ops.cast(outputs, self.compute_dtype)

    def get_config(self):
        return {**keras.layers.Layer.get_config(self), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="keras_vit")
class LayerScale(Layer):
    """Multiplication by a learned vector that starts small.

    Input and output: `(..., d)`.

    Args:
        initial_value: float, initial value of every entry.

    Example:

    >>> import keras, keras_vit
    >>> x = keras.ops.ones((1, 2))
    >>> keras.ops.convert_to_numpy(keras_vit.layers.LayerScale(0.5)(x)).tolist()
    [[0.5, 0.5]]

    Reference: CaiT (arXiv:2103.17239) section 2.
    """

    def __init__(self, initial_value: float = 1e-5, **kwargs):
        super().__init__(**kwargs)
        self.initial_value = initial_value

    def build(self, input_shape):
        self.gamma = self.add_weight(
            name="gamma",
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.initial_value),
        )

    def call(self, x):
        return x * self.gamma


@keras.saving.register_keras_serializable(package="keras_vit")
class StochasticDepth(keras.layers.Dropout):
    """Dropout of a whole residual branch for some images of a batch, in training only.

    Branches that are kept are divided by the probability of keeping them. This is
    Keras's dropout with one draw for each image.

    Input and output: `(b, n, d)`.

    Args:
        rate: probability that an image's branch is dropped.

    Example:

    >>> import keras, keras_vit
    >>> branch = keras.random.uniform((2, 5, 64))
    >>> out = keras_vit.layers.StochasticDepth(0.5)(branch, training=False)
    >>> bool(keras.ops.all(out == branch))
    True

    Reference: Deep Networks with Stochastic Depth (arXiv:1603.09382).
    """

    def __init__(self, rate: float, **kwargs):
        super().__init__(rate, noise_shape=(None, 1, 1), **kwargs)

    def get_config(self):
        config = super().get_config()
        del config["noise_shape"]
        return config


@keras.saving.register_keras_serializable(package="keras_vit")
class TransformerBlock(Composite):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`.

    Each branch may be scaled (LayerScale) and dropped (stochastic depth).

    Input and output: `(b, n, d)`, any float dtype. Norms and softmax are computed in
    float32.

    Args:
        num_heads: int, number of attention heads; must divide `d`.
        mlp_dim: int, width of the MLP.
        activation: `"gelu_tanh"`, `"gelu"` (exact) or a name of `keras.activations`.
        layer_norm_epsilon: float, added to the variance.
        qkv_bias: bool, whether q, k and v have biases.
        layer_scale: None for no LayerScale, or its initial value.
        dropout_rate: dropout rate after every dense layer except the QKV projection.
        attention_dropout_rate: dropout rate of the attention weights.
        stochastic_depth_rate: probability that a branch is dropped for an image.
        relative_grid_shape: None, or the `(gh, gw)` of the grid for relative
            positions.
        remat: bool, whether the backward pass computes the block again instead of
            storing its intermediate tensors.

    Raises:
        ValueError: `num_heads` does not divide `d`, or an unknown activation.

    Example:

    >>> import keras, keras_vit
    >>> block = keras_vit.layers.TransformerBlock(num_heads=4, mlp_dim=128)
    >>> tuple(block(keras.random.uniform((2, 5, 64))).shape)
    (2, 5, 64)

    Reference: ViT (arXiv:2010.11929) equations 2 and 3.
    """

    # Subclasses replace these.
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
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.activation = activation
        self.layer_norm_epsilon = layer_norm_epsilon
        self.qkv_bias = qkv_bias
        self.layer_scale = layer_scale
        self.dropout_rate = dropout_rate
        self.attention_dropout_rate = attention_dropout_rate
        self.stochastic_depth_rate = stochastic_depth_rate
        self.relative_grid_shape = relative_grid_shape and tuple(relative_grid_shape)
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

    def call(self, x, training=None):
        if self.remat and training:
            return recompute(self, lambda x: self._transform(x, training), x)
        return self._transform(x, training)

    def attention_weights(self, x):
        """Return the attention weights of the block in inference.

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
