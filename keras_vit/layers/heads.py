"""Pooling of tokens, and heads that compute predictions.

`connect` in `keras_vit/models/vit.py` chooses between them.
"""

from typing import Any, ClassVar

import keras
from keras import ops

from keras_vit.kernels.attention import split_heads
from keras_vit.kernels.initial_values import BudgetedLayer, InitialValues
from keras_vit.kernels.precision import to_float32
from keras_vit.layers.attention import (
    attention_weights,
    dot_product_attention,
    head_dim,
)
from keras_vit.layers.base import Composite, Layer, stored
from keras_vit.layers.dense import AdaptableDense, Dense
from keras_vit.layers.mlp import MLP
from keras_vit.layers.norms import make_norm


@keras.saving.register_keras_serializable(package="keras_vit")
class TokenPooling(Layer):
    """Selection of one token: the first, which is the class token, or another.

    Input: `(b, n, d)`. Output: `(b, d)`.

    According to the paper, the class token and global average pooling need different
    learning rates; with the same rate, pooling looks much worse than it is. Tune the rate
    for each before comparing them.

    Args:
        index: int, index of the token.

    Raises:
        ValueError: there is no token with this index.

    Example:

    >>> import keras, keras_vit
    >>> tuple(keras_vit.layers.TokenPooling()(keras.random.uniform((2, 5, 8))).shape)
    (2, 8)

    Reference: ViT (arXiv:2010.11929) equation 4, appendix D.3.
    """

    def __init__(self, index: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.index = index

    def build(self, input_shape):
        tokens = input_shape[1]
        if tokens is not None and not -tokens <= self.index < tokens:
            raise ValueError(
                f"TokenPooling needs an index from {-tokens} to {tokens - 1}, for "
                f"{tokens} tokens; received index={self.index}."
            )

    def call(self, tokens):
        return tokens[:, self.index]

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[2])


@keras.saving.register_keras_serializable(package="keras_vit")
class GlobalAveragePooling(Layer):
    """Mean of the grid tokens (GAP), computed in float32.

    Input: `(b, n, d)`, and optionally `sizes` `(b, n)`, the number of patches that each
    token stands for, as its weight. Output: `(b, d)`.

    Accuracy is as good as with the class token, but according to the paper the two need
    different learning rates; see `TokenPooling`.

    Args:
        num_prefix_tokens: int, number of tokens before the grid, which are left out.

    Example:

    >>> import keras, keras_vit
    >>> pooling = keras_vit.layers.GlobalAveragePooling(num_prefix_tokens=1)
    >>> tuple(pooling(keras.random.uniform((2, 5, 8))).shape)
    (2, 8)

    Reference: ViT (arXiv:2010.11929) appendix D.3. Keras's `GlobalAveragePooling1D` can
    leave out prefix tokens only by a mask, which would be passed on with the tokens.
    """

    def __init__(self, num_prefix_tokens: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.num_prefix_tokens = num_prefix_tokens

    def build(self, input_shape):
        tokens = input_shape[1]
        if tokens is not None and tokens <= self.num_prefix_tokens:
            raise ValueError(
                f"GlobalAveragePooling with num_prefix_tokens={self.num_prefix_tokens} "
                f"needs more tokens than that; received shape {tuple(input_shape)}."
            )

    def call(self, tokens, sizes=None):
        grid = tokens[:, self.num_prefix_tokens :]
        # A sum over thousands of tokens can overflow in float16.
        x = to_float32(grid)
        if sizes is None:
            return ops.cast(ops.mean(x, axis=1), grid.dtype)
        weights = ops.cast(sizes[:, self.num_prefix_tokens :, None], x.dtype)
        mean = ops.sum(x * weights, axis=1) / ops.sum(weights, axis=1)
        return ops.cast(mean, grid.dtype)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[2])


@keras.saving.register_keras_serializable(package="keras_vit")
class TokenAndAveragePooling(GlobalAveragePooling):
    """Concatenation of the class token and the mean of the grid tokens.

    Input: `(b, n, d)`. Output: `(b, 2 * d)`.

    Args:
        num_prefix_tokens: int, number of tokens before the grid, at least the class
            token. The mean leaves them out.

    Example:

    >>> import keras, keras_vit
    >>> pooling = keras_vit.layers.TokenAndAveragePooling(num_prefix_tokens=1)
    >>> tuple(pooling(keras.random.uniform((2, 5, 8))).shape)
    (2, 16)

    Reference: DINOv2 (arXiv:2304.07193), linear evaluation; the classifier of
    transformers' `Dinov2ForImageClassification`.
    """

    def __init__(self, num_prefix_tokens: int = 1, **kwargs):
        super().__init__(num_prefix_tokens, **kwargs)

    def call(self, tokens, sizes=None):
        return ops.concatenate([tokens[:, 0], super().call(tokens, sizes)], axis=-1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 2 * input_shape[2])


@keras.saving.register_keras_serializable(package="keras_vit")
class AttentionPooling(InitialValues, Composite):
    """Attention of one learned probe to the grid tokens (MAP), then a residual MLP.

    `x = attention(probe, tokens)`, then `x + mlp(norm(x))`.

    Input: `(b, n, d)`, and optionally `sizes` `(b, n)`, the number of patches that each
    token stands for: the probe attends to it as often. Output: `(b, d)`.

    Args:
        num_heads: int, number of attention heads; must divide `d`.
        mlp_dim: int, width of the MLP; None for no norm and no MLP (AIMv2).
        num_prefix_tokens: int, number of tokens before the grid, which are left out.
        activation: activation of the MLP, see `MLP`.
        layer_norm_epsilon: float, added to the variance.
        norm: kind of the norm: `"layer"`, `"rms"`, or a `LayerNorm` or `RMSNorm`.
        use_query_projection: bool, whether the probe is projected to a query.
        use_qkv_bias: bool, whether the projections to query, key and value have biases.

    Raises:
        ValueError: `num_heads` does not divide `d`, or an unknown activation.

    Example:

    >>> import keras, keras_vit
    >>> pooling = keras_vit.layers.AttentionPooling(num_heads=2, mlp_dim=16)
    >>> tuple(pooling(keras.random.uniform((2, 5, 8))).shape)
    (2, 8)

    Reference: Set Transformer (arXiv:1810.00825) section 3.2, as in Scaling ViT
    (arXiv:2106.04560) section 3.1 and big_vision's `MAPHead`; without MLP: AIMv2
    (arXiv:2411.14402).
    """

    _attributes: ClassVar = {"norm": "norm_kind"}

    def __init__(
        self,
        num_heads: int,
        mlp_dim: int | None,
        num_prefix_tokens: int = 0,
        activation: str = "gelu_tanh",
        layer_norm_epsilon: float = 1e-6,
        norm: str | keras.layers.Layer = "layer",
        use_query_projection: bool = True,
        use_qkv_bias: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.num_prefix_tokens = num_prefix_tokens
        self.activation = activation
        self.layer_norm_epsilon = layer_norm_epsilon
        self.norm_kind = stored(norm)
        self.use_query_projection = use_query_projection
        self.use_qkv_bias = use_qkv_bias
        self.norm: Any = None
        self.mlp: Any = None
        if mlp_dim is not None:
            dtype = self.dtype_policy
            self.norm = make_norm(norm, layer_norm_epsilon, dtype=dtype, name="norm")
            self.mlp = MLP(mlp_dim, activation, dtype=dtype, name="mlp")

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
        if self.use_query_projection:
            self.query = dense(width, "query", use_bias=self.use_qkv_bias)
        self.key_value = dense(
            2 * width,
            "key_value",
            use_bias=self.use_qkv_bias,
            # Glorot uniform for each of the two, as in SelfAttention.
            kernel_initializer=keras.initializers.VarianceScaling(
                scale=1.5, mode="fan_avg", distribution="uniform"
            ),
        )
        self.projection = dense(width, "projection")
        if self.mlp is not None:
            self.norm.build((None, width))
            self.mlp.build((None, width))

    def call(self, tokens, sizes=None):
        query, key, value = self._query_key_value(tokens)
        bias = None
        if sizes is not None:
            sizes = ops.cast(sizes[:, self.num_prefix_tokens :], "float32")
            bias = ops.log(sizes)[:, None, None, :]
        mixed = dot_product_attention(query, key, value, bias)
        x = self.projection(ops.reshape(mixed, (-1, tokens.shape[-1])))
        return x if self.mlp is None else x + self.mlp(self.norm(x))

    def attention_weights(self, tokens):
        """Return the attention weights of the probe.

        Args:
            tokens: `(b, n, d)`, the input of the layer.

        Returns:
            `(b, num_heads, 1, n - num_prefix_tokens)`, float32; each row sums to 1.
        """
        query, key, _ = self._query_key_value(tokens)
        return attention_weights(query, key)

    def _query_key_value(self, tokens):
        grid = tokens[:, self.num_prefix_tokens :]
        probe = ops.cast(self.probe, grid.dtype)
        if self.use_query_projection:
            probe = self.query(probe)
        (query,) = split_heads(probe, 1, self.num_heads)
        key, value = split_heads(self.key_value(grid), 2, self.num_heads)
        return query * self.scale, key, value

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[2])


@keras.saving.register_keras_serializable(package="keras_vit")
class PreLogits(BudgetedLayer, AdaptableDense):
    """Hidden layer of the pretraining head: dense, then tanh.

    Fine-tuning drops it. This is a `keras.layers.Dense` with other defaults.

    Input: `(b, d)`. Output: `(b, units)`.

    Args:
        units: int, the model's `representation_size`.
        **kwargs: as for `keras.layers.Dense`.

    Example:

    >>> import keras, keras_vit
    >>> tuple(keras_vit.layers.PreLogits(16)(keras.random.uniform((2, 8))).shape)
    (2, 16)

    Reference: ViT (arXiv:2010.11929) section 3.1, "classification head".
    """

    def __init__(
        self, units: int, activation="tanh", kernel_initializer="lecun_normal", **kwargs
    ):
        super().__init__(
            units, activation, kernel_initializer=kernel_initializer, **kwargs
        )


@keras.saving.register_keras_serializable(package="keras_vit")
class Classifier(BudgetedLayer, AdaptableDense):
    """Last linear layer, computed in float32, with a kernel that starts at zero.

    With a zero kernel, fine-tuning starts from the same loss for every backbone. This is
    a `keras.layers.Dense` with other defaults.

    Input: `(b, d)`. Output: `(b, units)`, float32 under every global policy.

    Args:
        units: int, number of classes.
        bias_initializer: `"zeros"`, or for a sigmoid loss a constant such as
            `keras.initializers.Constant(-10.0)`, so that training starts with few
            positives.
        **kwargs: as for `keras.layers.Dense`.

    Example:

    >>> import keras, keras_vit
    >>> features = keras.random.uniform((1, 8))
    >>> head = keras_vit.layers.Classifier(2, activation="softmax")
    >>> keras.ops.convert_to_numpy(head(features)).tolist()
    [[0.5, 0.5]]

    Reference: ViT (arXiv:2010.11929) section 3.2; bias: AugReg (arXiv:2106.10270).
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


class _HeadDense(BudgetedLayer, AdaptableDense):
    """Dense layer of a head, which keeps its initial values if a checkpoint follows."""


@keras.saving.register_keras_serializable(package="keras_vit")
class SimilarityClassifier(Composite):
    """Scaled cosine similarity of features and one vector for each class.

    The output is `activation(x / |x| @ kernel + bias)`, in which `x` are the features or
    their linear projection, and the kernel contains the vectors, multiplied by the scale.
    Everything is computed in float32. The kernel starts at zero, as in `Classifier`;
    `ViT.zero_shot` sets it to text embeddings.

    Input: `(b, d)`. Output: `(b, units)`, float32 under every global policy.

    Args:
        units: int, number of classes.
        projection_dim: None, or the width of a projection of the features (CLIP).
        activation: None, or the name of a Keras activation.
        initial_bias: float, initial value of the bias.

    Example:

    >>> import keras, keras_vit
    >>> head = keras_vit.layers.SimilarityClassifier(2, projection_dim=4)
    >>> tuple(head(keras.random.uniform((3, 8))).shape)
    (3, 2)

    Reference: CLIP (arXiv:2103.00020) figure 3; bias: SigLIP (arXiv:2303.15343).
    """

    def __init__(
        self,
        units: int = 1000,
        projection_dim: int | None = None,
        activation: str | None = None,
        initial_bias: float = 0.0,
        dtype="float32",
        **kwargs,
    ):
        super().__init__(dtype=dtype, **kwargs)
        self.units = units
        self.projection_dim = projection_dim
        self.activation = activation
        self.initial_bias = initial_bias
        self.projection: Any = None
        if projection_dim is not None:
            self.projection = _HeadDense(
                projection_dim, dtype=self.dtype_policy, name="projection"
            )

    def build(self, input_shape):
        if self.projection is not None:
            self.projection.build(input_shape)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.projection_dim or input_shape[-1], self.units),
            initializer="zeros",
        )
        self.bias = self.add_weight(
            name="bias",
            shape=(self.units,),
            initializer=keras.initializers.Constant(self.initial_bias),
        )

    def call(self, x):
        if self.projection is not None:
            x = self.projection(x)
        squares = ops.sum(ops.square(x), axis=-1, keepdims=True)
        # The gradient of a square root is infinite at 0.
        x = x * ops.rsqrt(ops.maximum(squares, 1e-30))
        logits = ops.matmul(x, self.kernel) + self.bias
        return keras.activations.get(self.activation)(logits)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)
