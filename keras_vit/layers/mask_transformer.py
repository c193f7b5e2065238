"""Decoder of Segmenter, a small Transformer with one query for each class."""

import keras
from keras import ops

from keras_vit.kernels.initial_values import InitialValues
from keras_vit.kernels.precision import to_float32
from keras_vit.layers.base import Composite
from keras_vit.layers.block import TransformerBlock
from keras_vit.layers.dense import Dense
from keras_vit.layers.norms import LayerNorm

# Smallest sum of squares by which an embedding is normalized.
_EPSILON = 1e-12


@keras.saving.register_keras_serializable(package="keras_vit")
class MaskTransformer(InitialValues, Composite):
    """Segmentation head with a learned token for each class.

    The tokens of the patches are projected to `hidden_dim` and pass through Transformer
    blocks together with the tokens of the classes, then through a norm and one
    projection for patches and one for classes. The score of a class for a patch is the
    cosine of their embeddings. A last norm over the classes turns scores into logits.

    Input: `(b, gh, gw, d)`, a map of a ViT, such as one that `model.features` returns.
    Output: `(b, gh, gw, classes)`, logits in float32 under every dtype policy.

    Args:
        classes: int, number of classes.
        num_layers: int, number of blocks.
        hidden_dim: int, width of the decoder; None for `d`.
        num_heads: int, number of attention heads, which must divide the width; None for
            one for each 64 channels of the width.
        mlp_dim: int, width of the MLPs; None for four times the width.
        dropout_rate: dropout rate after every dense layer of the blocks except the QKV
            projection.
        layer_norm_epsilon: float, added to the variance.

    Raises:
        ValueError: the input is not a map, or `num_heads` does not divide the width.

    Example:

    >>> import keras, keras_vit
    >>> head = keras_vit.layers.MaskTransformer(classes=3, num_heads=2)
    >>> tuple(head(keras.random.uniform((1, 4, 6, 32))).shape)
    (1, 4, 6, 3)

    Reference: Segmenter (arXiv:2105.05633) section 3.2; projections, norms, epsilon and
    initial values as in its code, where width and heads always have their defaults.
    """

    def __init__(
        self,
        classes: int,
        num_layers: int = 2,
        hidden_dim: int | None = None,
        num_heads: int | None = None,
        mlp_dim: int | None = None,
        dropout_rate: float = 0.1,
        layer_norm_epsilon: float = 1e-5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.classes = classes
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.dropout_rate = dropout_rate
        self.layer_norm_epsilon = layer_norm_epsilon

    def build(self, input_shape):
        if len(input_shape) != 4:
            raise ValueError(
                "MaskTransformer needs maps (batch, rows, columns, width), such as those "
                f"of model.features(images); received shape {tuple(input_shape)}."
            )
        width = self.hidden_dim or input_shape[-1]
        tokens = (None, None, width)

        def dense(name, inputs, stddev, **kwargs):
            layer = Dense(
                width,
                kernel_initializer=keras.initializers.RandomNormal(stddev=stddev),
                dtype=self.dtype_policy,
                name=name,
                **kwargs,
            )
            layer.build((None, None, inputs))
            return layer

        self.projection = dense("projection", input_shape[-1], 0.02)
        self.class_tokens = self.add_weight(
            name="class_tokens",
            shape=(1, self.classes, width),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02),
        )
        self.blocks = [
            TransformerBlock(
                self.num_heads or max(1, width // 64),
                self.mlp_dim or 4 * width,
                activation="gelu",
                layer_norm_epsilon=self.layer_norm_epsilon,
                dropout_rate=self.dropout_rate,
                dtype=self.dtype_policy,
                name=f"block_{index}",
            )
            for index in range(self.num_layers)
        ]
        for block in self.blocks:
            block.build(tokens)
        self.norm = LayerNorm(
            self.layer_norm_epsilon, dtype=self.dtype_policy, name="norm"
        )
        self.norm.build(tokens)
        scale = width**-0.5
        self.patch_projection = dense("patch_projection", width, scale, use_bias=False)
        self.class_projection = dense("class_projection", width, scale, use_bias=False)
        self.class_norm = LayerNorm(
            self.layer_norm_epsilon, dtype="float32", name="class_norm"
        )
        self.class_norm.build((None, None, self.classes))

    def call(self, grid, training=None):
        batch, (rows, columns, width) = ops.shape(grid)[0], grid.shape[1:]
        patches = self.projection(ops.reshape(grid, (-1, rows * columns, width)))
        queries = ops.cast(self.class_tokens, patches.dtype)
        queries = ops.broadcast_to(queries, (batch, *queries.shape[1:]))
        x = ops.concatenate([patches, queries], axis=1)
        for block in self.blocks:
            x = block(x, training=training)
        x = self.norm(x)
        patches = _normalized(self.patch_projection(x[:, : -self.classes]))
        queries = _normalized(self.class_projection(x[:, -self.classes :]))
        scores = ops.matmul(patches, ops.swapaxes(queries, 1, 2))
        return ops.reshape(self.class_norm(scores), (-1, rows, columns, self.classes))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.classes)

    def compute_output_spec(self, grid, training=None):
        return keras.KerasTensor(self.compute_output_shape(grid.shape), "float32")


def _normalized(x):
    """Divide vectors `(..., d)` by their Euclidean norms, in float32."""
    x = to_float32(x)
    squares = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return x * ops.rsqrt(ops.maximum(squares, _EPSILON))
