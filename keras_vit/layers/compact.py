"""Convolutional tokenizer and sequence pooling of Compact Convolutional Transformers."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_vit.kernels.precision import to_float32
from keras_vit.layers.base import Layer
from keras_vit.layers.big_transfer import ZeroPaddedMaxPool


@keras.saving.register_keras_serializable(package="keras_vit")
class ConvTokenizer(Layer):
    """Stem of convolutions, each with ReLU and a max-pool, that replaces the patches.

    Use it as `ViT(stem=ConvTokenizer((64, 128)), patch_size=1)`. Each convolution has a
    stride of 1 and no bias; its max-pool halves the sides. The kernels overlap, so that
    no edge is cut by a border between patches, which helps most on small data sets.

    Input: images `(b, h, w, c)`, floats as for a `ViT`.
    Output: `(b, h / s, w / s, filters[-1])`, rounded up in every step, where
    `s = 2 ** len(filters)`.

    Args:
        filters: sequence of ints, number of channels of each convolution.
        kernel_size: int, side of the kernels; odd.

    Raises:
        ValueError: `filters` is empty or holds something other than positive ints, or
            `kernel_size` is not a positive odd int.

    Example:

    >>> import keras, keras_vit
    >>> stem = keras_vit.layers.ConvTokenizer((16, 32))
    >>> tuple(stem(keras.random.uniform((2, 32, 24, 3))).shape)
    (2, 8, 6, 32)

    Reference: Compact Transformers (arXiv:2104.05704) section 3.3. There the pooled maps
    are the tokens; in a `ViT`, the projection of the patches of one position follows.
    """

    def __init__(self, filters: Sequence[int], kernel_size: int = 3, **kwargs):
        super().__init__(**kwargs)
        if (
            isinstance(filters, int)
            or not filters
            or not all(isinstance(number, int) and number > 0 for number in filters)
        ):
            raise ValueError(
                "filters must hold a positive int for each convolution, such as "
                f"(64, 128); received {filters!r}."
            )
        if not isinstance(kernel_size, int) or kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size must be a positive odd int; received {kernel_size!r}."
            )
        self.filters = tuple(filters)
        self.kernel_size = kernel_size
        self.convs = [
            keras.layers.Conv2D(
                number,
                kernel_size,
                padding="same",
                data_format="channels_last",
                use_bias=False,
                activation="relu",
                kernel_initializer="he_normal",
                dtype=self.dtype_policy,
                name=f"conv_{index}",
            )
            for index, number in enumerate(self.filters)
        ]
        # Zeros do not change the maximum of values of 0 or more.
        self.pool = ZeroPaddedMaxPool(dtype=self.dtype_policy, name="pool")

    def build(self, input_shape):
        for conv in self.convs:
            conv.build(input_shape)
            input_shape = self._shape_after(conv, input_shape)

    def _shape_after(self, conv, shape):
        return self.pool.compute_output_shape(conv.compute_output_shape(shape))

    def call(self, images):
        x = images
        for conv in self.convs:
            x = self.pool(conv(x))
        return x

    def compute_output_shape(self, input_shape):
        for conv in self.convs:
            input_shape = self._shape_after(conv, input_shape)
        return input_shape


@keras.saving.register_keras_serializable(package="keras_vit")
class SequencePooling(Layer):
    """Mean of the grid tokens, weighted by a softmax of learned scores.

    A linear layer computes one score of each token. It starts at zero, so that training
    starts from the plain mean.

    Input: `(b, n, d)`, and optionally `sizes` `(b, n)`, the number of patches that each
    token represents. Output: `(b, d)`.

    Args:
        num_prefix_tokens: int, number of tokens before the grid, which are left out.

    Example:

    >>> import keras, keras_vit
    >>> pooling = keras_vit.layers.SequencePooling()
    >>> tuple(pooling(keras.random.uniform((2, 5, 8))).shape)
    (2, 8)

    Reference: Compact Transformers (arXiv:2104.05704) section 3.2. Its scores have a
    bias, which the softmax cancels.
    """

    def __init__(self, num_prefix_tokens: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.num_prefix_tokens = num_prefix_tokens

    def build(self, input_shape):
        self.kernel = self.add_weight(
            name="kernel",
            shape=(input_shape[-1], 1),
            initializer="zeros",
            autocast=False,  # The scores are computed in float32.
        )

    def call(self, tokens, sizes=None):
        grid = tokens[:, self.num_prefix_tokens :]
        if sizes is not None:
            sizes = sizes[:, self.num_prefix_tokens :]
        weights = ops.cast(self._weights(grid, sizes), grid.dtype)  # (b, 1, n)
        return ops.squeeze(ops.matmul(weights, grid), 1)

    def attention_weights(self, tokens):
        """Return the weights of the mean.

        Args:
            tokens: `(b, n, d)`, the input of the layer.

        Returns:
            `(b, 1, 1, n - num_prefix_tokens)`, float32; each row sums to 1.
        """
        grid = tokens[:, self.num_prefix_tokens :]
        return ops.expand_dims(self._weights(grid), 1)

    def _weights(self, grid, sizes=None):
        scores = ops.matmul(to_float32(grid), to_float32(self.kernel))
        if sizes is not None:  # A merged token stands for several equal ones.
            scores = scores + ops.log(to_float32(sizes))[..., None]
        return ops.softmax(ops.swapaxes(scores, 1, 2), axis=-1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[2])
