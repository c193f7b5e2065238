"""Tokens-to-token module of T2T-ViT: soft splits with attention between them."""

import math

import keras
from keras import ops

from keras_vit.choices import check_choice
from keras_vit.kernels.attention import split_heads
from keras_vit.kernels.precision import to_float32
from keras_vit.kernels.recompute import recompute
from keras_vit.layers.attention import attention_weights, self_attention
from keras_vit.layers.base import Composite
from keras_vit.layers.dense import Dense
from keras_vit.layers.mlp import MLP
from keras_vit.layers.norms import LayerNorm
from keras_vit.layers.soft_split import SoftSplit


def positive_features(x, features):
    """Return `exp(w . x - |x|^2 / 2) / sqrt(m)` for each row `w` of `features`.

    Args:
        x: `(b, n, d)`, any float dtype.
        features: `(m, d)`.

    Returns:
        `(b, n, m)`, float32. The exponent is at most `|w|^2 / 2`, so that large `x` do
        not overflow, as their squares in half precision would.

    Reference: Performer (arXiv:2009.14794) lemma 1.
    """
    x, features = to_float32(x), to_float32(features)
    exponent = ops.matmul(x, ops.transpose(features))
    exponent = exponent - ops.sum(ops.square(x), axis=-1, keepdims=True) / 2
    return ops.exp(exponent) / math.sqrt(features.shape[0])


def performer_attention(query, key, value, features):
    """Approximate `softmax(query @ key^T) @ value` in time linear in the tokens.

    Args:
        query: `(b, n, d)`, not scaled.
        key: `(b, n, d)`.
        value: `(b, n, e)`.
        features: `(m, d)`, random directions; a larger `m` is more accurate.

    Returns:
        `(b, n, e)` in the dtype of `value`; computed in float32.

    Reference: Performer (arXiv:2009.14794) equation 4, with the 1e-8 in the denominator
    from T2T-ViT. For a query far from every key, 1e-8 exceeds the rest of the denominator
    and the result tends to 0. Trained weights rely on that, so the exponents are not
    shifted.
    """
    query = positive_features(query, features)
    key = positive_features(key, features)
    mixed = ops.matmul(ops.transpose(key, (0, 2, 1)), to_float32(value))
    row_sum = ops.matmul(query, ops.sum(key, axis=1)[:, :, None])
    return ops.cast(ops.matmul(query, mixed) / (row_sum + 1e-8), value.dtype)


class _TokenAttention(Composite):
    """`x = value + projection(attention)`, then `x + mlp(norm(x))`.

    The residual branch starts from the values, because input and output differ in width.
    """

    use_qkv_bias: bool

    def __init__(
        self,
        token_dim: int = 64,
        activation: str = "gelu",
        layer_norm_epsilon: float = 1e-5,
        dropout_rate: float = 0.0,
        remat: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.token_dim = token_dim
        self.activation = activation
        self.layer_norm_epsilon = layer_norm_epsilon
        self.dropout_rate = dropout_rate
        self.remat = remat
        dtype = self.dtype_policy
        self.attention_norm = LayerNorm(
            epsilon=layer_norm_epsilon, dtype=dtype, name="attention_norm"
        )
        self.qkv = Dense(
            3 * token_dim, use_bias=self.use_qkv_bias, dtype=dtype, name="qkv"
        )
        self.projection = Dense(token_dim, dtype=dtype, name="projection")
        self.mlp_norm = LayerNorm(
            epsilon=layer_norm_epsilon, dtype=dtype, name="mlp_norm"
        )
        self.mlp = MLP(token_dim, activation, dtype=dtype, name="mlp")
        self.dropout = keras.layers.Dropout(dropout_rate, dtype=dtype, name="dropout")

    def build(self, input_shape):
        self.attention_norm.build(input_shape)
        self.qkv.build(input_shape)
        shape = (*input_shape[:-1], self.token_dim)
        for layer in (self.projection, self.mlp_norm, self.mlp):
            layer.build(shape)

    def _attend(self, qkv):
        raise NotImplementedError

    def call(self, x, training=None):
        if self.remat and training:
            return recompute(self, lambda x: self._transform(x, training), x)
        return self._transform(x, training)

    def _transform(self, x, training):
        qkv = self.qkv(self.attention_norm(x))
        value = qkv[:, :, 2 * self.token_dim :]
        mixed = self.projection(self._attend(qkv))
        x = value + self.dropout(mixed, training=training)
        branch = self.mlp(self.mlp_norm(x), training=training)
        return x + self.dropout(branch, training=training)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.token_dim)


@keras.saving.register_keras_serializable(package="keras_vit")
class TokenTransformer(_TokenAttention):
    """Attention from wide tokens to narrow ones, followed by an MLP.

    It has one head, and no biases of q, k and v. The queries are divided by the square
    root of the *input's* width, and the residual branch starts from the values.

    Input: `(b, n, d)`, any float dtype; softmax and norms in float32.
    Output: `(b, n, token_dim)`.

    Args:
        token_dim: int, width of the output.
        activation: activation of the MLP, which is `token_dim` wide; see `MLP`.
        layer_norm_epsilon: float, added to the variance.
        dropout_rate: dropout rate of both branches.
        remat: bool, whether the backward pass computes the layer again instead of
            storing its intermediate tensors.

    Example:

    >>> import keras, keras_vit
    >>> layer = keras_vit.layers.TokenTransformer(8)
    >>> tuple(layer(keras.random.uniform((2, 5, 27))).shape)
    (2, 5, 8)

    Reference: T2T-ViT (arXiv:2101.11986) section 3.1, "Re-structurization".
    """

    use_qkv_bias = False

    def build(self, input_shape):
        self.scale = input_shape[-1] ** -0.5
        super().build(input_shape)

    def _attend(self, qkv):
        return self_attention(qkv, num_heads=1, scale=self.scale)

    def attention_weights(self, tokens):
        """Return the attention weights in inference, whichever kernel `call` runs.

        Args:
            tokens: `(b, n, d)`, the input of the layer.

        Returns:
            `(b, n, n)`, float32: for each query a row that sums to 1.
        """
        qkv = self.qkv(self.attention_norm(tokens))
        query, key, _ = split_heads(qkv, 3, num_heads=1)
        return attention_weights(query * self.scale, key)[:, 0]


@keras.saving.register_keras_serializable(package="keras_vit")
class TokenPerformer(_TokenAttention):
    """Variant of `TokenTransformer` with time and memory linear in `n`.

    Positive random features replace the softmax. Their directions are frozen orthogonal
    weights, which are saved with the others. Features are computed in float32 under every
    policy, because squares and exponentials exceed the range of half precision.

    Input: `(b, n, d)`, any float dtype. Output: `(b, n, token_dim)`.

    The columns of the projection are ordered k, q, v. Queries are not scaled.

    Args:
        token_dim: int, width of the output.
        num_features: int, number of random features; None for `token_dim // 2`.
        activation: activation of the MLP, which is `token_dim` wide; see `MLP`.
        layer_norm_epsilon: float, added to the variance.
        dropout_rate: dropout rate of both branches; 0.1 as in the original.
        remat: as for `TokenTransformer`.

    Example:

    >>> import keras, keras_vit
    >>> layer = keras_vit.layers.TokenPerformer(8)
    >>> tuple(layer(keras.random.uniform((2, 5, 27))).shape)
    (2, 5, 8)

    Reference: T2T-ViT (arXiv:2101.11986) section 3.1; Performer (arXiv:2009.14794).
    """

    use_qkv_bias = True

    def __init__(
        self,
        token_dim: int = 64,
        num_features: int | None = None,
        activation: str = "gelu",
        layer_norm_epsilon: float = 1e-5,
        dropout_rate: float = 0.1,
        remat: bool = False,
        **kwargs,
    ):
        super().__init__(
            token_dim, activation, layer_norm_epsilon, dropout_rate, remat, **kwargs
        )
        self.num_features = num_features

    def build(self, input_shape):
        number = self.num_features or self.token_dim // 2
        self.features = self.add_weight(
            name="features",
            shape=(number, self.token_dim),
            initializer=keras.initializers.Orthogonal(gain=math.sqrt(number)),
            trainable=False,
            # Orthogonalization and the features need float32.
            dtype=keras.backend.result_type(self.variable_dtype, "float32"),
            autocast=False,
        )
        super().build(input_shape)

    def _attend(self, qkv):
        key, query, value = ops.split(qkv, 3, axis=-1)
        return performer_attention(query, key, value, self.features)


_TOKENS = {
    "performer": TokenPerformer,
    "transformer": TokenTransformer,
    # A soft split followed by a dense layer is a convolution.
    "convolution": Dense,
}


@keras.saving.register_keras_serializable(package="keras_vit")
class TokensToToken(Composite):
    """Soft split, attention, soft split, attention, soft split: images to a token map.

    The first split takes 7x7 pixels with stride 4, the other two take 3x3 tokens with
    stride 2. Each output token consists of nine neighboring tokens of the previous step,
    side by side. A `ViT` with this layer as its stem projects them to its width.

    Input: images `(b, h, w, c)`, sides multiples of 16; may be rectangular.
    Output: `(b, h / 16, w / 16, 9 * token_dim)`.

    Args:
        tokens: layers between the splits: `"performer"`, `"transformer"`, or
            `"convolution"`, a linear layer that forms a convolution together with the
            split before it (the paper's comparison).
        token_dim: int, width of the tokens between the splits.
        activation: activation of the token layers' MLPs, see `MLP`.
        layer_norm_epsilon: float, added to the variance in the token layers.
        dropout_rate: dropout rate in the token layers; None for the original's, which is
            0.1 for Performers and 0 for others.
        remat: bool, whether the backward pass computes the token layers again instead of
            storing their intermediate tensors.

    Raises:
        ValueError: an argument is out of its range, or the image size is not a multiple
            of 16; the message names the nearest size that is.

    Example:

    >>> import keras, keras_vit
    >>> layer = keras_vit.layers.TokensToToken(token_dim=8)
    >>> tuple(layer(keras.random.uniform((2, 32, 48, 3))).shape)
    (2, 2, 3, 72)

    Reference: T2T-ViT (arXiv:2101.11986) section 3.1, figure 4.
    """

    # Distance in pixels from one output token to the next.
    stride = 16

    def __init__(
        self,
        tokens: str = "performer",
        token_dim: int = 64,
        activation: str = "gelu",
        layer_norm_epsilon: float = 1e-5,
        dropout_rate: float | None = None,
        remat: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_choice("tokens", tokens, _TOKENS)
        if not isinstance(token_dim, int) or token_dim < 2:
            raise ValueError(
                f"token_dim must be an int, 2 or more; received {token_dim!r}."
            )
        self.tokens = tokens
        self.token_dim = token_dim
        self.activation = activation
        self.layer_norm_epsilon = layer_norm_epsilon
        self.dropout_rate = dropout_rate
        self.remat = remat
        arguments = {}
        if tokens != "convolution":
            arguments = {
                "activation": activation,
                "layer_norm_epsilon": layer_norm_epsilon,
                "remat": remat,
            }
            if dropout_rate is not None:
                arguments["dropout_rate"] = dropout_rate
        self.token_layers = [
            _TOKENS[tokens](
                token_dim, dtype=self.dtype_policy, name=f"{tokens}_{i}", **arguments
            )
            for i in range(2)
        ]
        self.splits = [
            SoftSplit(*sizes, dtype=self.dtype_policy, name=f"split_{i}")
            for i, sizes in enumerate([(7, 4, 2), (3, 2, 1), (3, 2, 1)])
        ]

    def _check_shape(self, input_shape):
        if len(input_shape) != 4 or None in input_shape[1:]:
            raise ValueError(
                "TokensToToken needs images of shape (batch, height, width, channels), "
                f"all but the batch known; received {tuple(input_shape)}."
            )
        _, height, width, channels = input_shape
        if height % self.stride or width % self.stride:
            nearest = tuple(
                max(round(side / self.stride), 1) * self.stride
                for side in (height, width)
            )
            raise ValueError(
                f"An image of {height}x{width} pixels does not fit three soft splits "
                "with strides of 4, 2 and 2: both sides must be multiples of "
                f"{self.stride}. Resize to {nearest[0]}x{nearest[1]}, "
                f"input_shape={(*nearest, channels)}."
            )

    def build(self, input_shape):
        self._check_shape(input_shape)
        shape = input_shape
        for split, layer in zip(self.splits, self.token_layers, strict=False):
            rows, columns = split.grid_shape(shape)
            split.build(shape)
            layer.build(split.compute_output_shape(shape))
            shape = (shape[0], rows, columns, self.token_dim)
        self.splits[-1].build(shape)

    def call(self, images, training=None):
        x = images
        for step in range(len(self.token_layers)):
            x = self._tokens_of(x, step, training)
        rows, columns = self.splits[-1].grid_shape(x.shape)
        x = self.splits[-1](x)
        return ops.reshape(x, (-1, rows, columns, x.shape[-1]))

    def _tokens_of(self, x, step, training=None):
        """Return the map `(b, rows, columns, token_dim)` after a split and its layer."""
        rows, columns = self.splits[step].grid_shape(x.shape)
        x = self.token_layers[step](self.splits[step](x), training=training)
        return ops.reshape(x, (-1, rows, columns, self.token_dim))

    def attention_weights(self, images, step):
        """Return the attention weights of a token Transformer in inference.

        Args:
            images: `(b, h, w, c)`, the input of the layer.
            step: 0 for the Transformer after the first split, 1 for the second one.

        Returns:
            `(b, n, n)`, float32: for each token of the split a row that sums to 1.
        """
        for earlier in range(step):
            images = self._tokens_of(images, earlier)
        return self.token_layers[step].attention_weights(self.splits[step](images))

    def compute_output_shape(self, input_shape):
        self._check_shape(input_shape)
        batch, height, width, _ = input_shape
        grid = (height // self.stride, width // self.stride)
        return (batch, *grid, 9 * self.token_dim)
