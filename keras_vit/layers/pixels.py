"""Images as sequences of colors from a palette, and their embedding."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.kernels.initial_values import BudgetedLayer, InitialValues
from keras_vit.kernels.precision import to_float32
from keras_vit.layers.base import Layer
from keras_vit.layers.positions import LearnedPositions

# Number of pixels that the palette is fitted to.
MOST_PIXELS = 100_000


@keras.saving.register_keras_serializable(package="keras_vit")
class PixelPalette(BudgetedLayer, Layer):
    """Replacement of each pixel by the number of the nearest color of a palette.

    The palette is a weight that does not train, so files save it. It starts as a regular
    grid over the values -1 to 1 of each channel; `adapt` fits it to images.

    Input: images `(b, h, w, c)`, floats that the preprocessor of a model has scaled.
    Output: `(b, h * w)`, int32, the numbers of the colors in raster order. Distances are
    computed in float32 under every global policy.

    Args:
        colors: int, number of colors.

    Raises:
        ValueError: `colors` is not an int from 2 to 65536.

    Example:

    >>> import keras, keras_vit
    >>> palette = keras_vit.layers.PixelPalette(colors=3)  # Black, gray and white.
    >>> images = keras.ops.reshape(keras.ops.array([-0.9, 0.1, 1.0, 0.2]), (1, 2, 2, 1))
    >>> keras.ops.convert_to_numpy(palette(images)).tolist()
    [[0, 1, 2, 1]]

    Reference: iGPT (Chen et al., "Generative Pretraining from Pixels", ICML 2020),
    section 3.2, which clusters colors by k-means with 512 centers.
    """

    # In half precision, neighboring colors would be equal.
    def __init__(self, colors: int, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        whole = isinstance(colors, int) and not isinstance(colors, bool)
        if not whole or not 2 <= colors <= 2**16:
            raise ValueError(
                f"colors must be an int from 2 to 65536; received {colors!r}."
            )
        self.colors = colors

    def build(self, input_shape):
        self.palette = self.add_weight(
            name="palette",
            shape=(self.colors, input_shape[-1]),
            initializer=_regular_grid,
            trainable=False,
        )

    def call(self, images):
        _, height, width, channels = images.shape
        pixels = ops.reshape(to_float32(images), (-1, height * width, channels))
        palette = to_float32(ops.convert_to_tensor(self.palette))
        # The square of the pixel is the same for all colors and is left out.
        squares = ops.sum(ops.square(palette), axis=-1)
        distances = squares - 2.0 * ops.matmul(pixels, ops.transpose(palette))
        return ops.cast(ops.argmin(distances, axis=-1), "int32")

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[1] * input_shape[2])

    def compute_output_spec(self, images):
        return keras.KerasTensor(self.compute_output_shape(images.shape), dtype="int32")

    def pixels(self, numbers: Any) -> Any:
        """Return the colors with some numbers.

        Args:
            numbers: `(...)`, int.

        Returns:
            `(..., c)`, float32, on the scale of the images.
        """
        return ops.take(ops.convert_to_tensor(self.palette), numbers, axis=0)

    def adapt(self, images: np.ndarray, seed: int = 0) -> None:
        """Fit the palette to the colors of images by k-means.

        The colors are sorted by their mean over the channels. If the images have exactly
        `colors` different colors, these are the palette.

        Args:
            images: `(b, h, w, c)`, scaled as for the model. Of many pixels, a random
                sample of 100,000 is used.
            seed: int, seed of the sample and of k-means.

        Raises:
            ValueError: the images have fewer different colors than the palette.
        """
        from sklearn.cluster import KMeans

        images = np.asarray(images, "float32")
        pixels = images.reshape(-1, images.shape[-1])
        if len(pixels) > MOST_PIXELS:
            generator = np.random.default_rng(seed)
            pixels = pixels[generator.choice(len(pixels), MOST_PIXELS, replace=False)]
        found = np.unique(pixels, axis=0)
        if len(found) < self.colors:
            raise ValueError(
                f"The images have {len(found)} different colors, fewer than the "
                f"{self.colors} of the palette: set colors={len(found)} or less."
            )
        if len(found) > self.colors:
            means = KMeans(self.colors, n_init=1, max_iter=50, random_state=seed)
            found = means.fit(pixels).cluster_centers_
        order = np.lexsort((*found.T, found.mean(axis=1)))
        if not self.built:
            self.build(images.shape)
        self.palette.assign(found[order])


def _regular_grid(shape, dtype=None):
    """Return `shape[0]` points that are spread over a cube from -1 to 1."""
    colors, channels = shape
    side = int(np.ceil(round(colors ** (1 / channels), 6)))
    chosen = np.linspace(0, side**channels - 1, colors).round().astype(int)
    levels = np.stack(np.unravel_index(chosen, (side,) * channels), axis=-1)
    return ops.convert_to_tensor(2.0 * levels / max(side - 1, 1) - 1.0, dtype)


@keras.saving.register_keras_serializable(package="keras_vit")
class PixelEmbedding(InitialValues, Layer):
    """Embedding of a sequence of colors, with learned positions.

    With `causal=True`, the sequence is shifted by one: the first token is a learned start
    token, and token `i` is the vector of pixel `i - 1`, from which pixel `i` is
    predicted. With `causal=False`, the number `colors` stands for a masked pixel.

    Input: `(b, h * w)`, int. Output: `(b, h * w, d)`.

    Args:
        colors: int, number of colors.
        hidden_dim: int, width `d` of the tokens.
        grid_shape: `(h, w)`, rows and columns of pixels.
        causal: bool, whether the sequence is shifted.

    Example:

    >>> import keras, keras_vit
    >>> embedding = keras_vit.layers.PixelEmbedding(17, 8, grid_shape=(2, 3))
    >>> tuple(embedding(keras.ops.zeros((4, 6), "int32")).shape)
    (4, 6, 8)

    Reference: iGPT (Chen et al., 2020), section 2.
    """

    def __init__(
        self,
        colors: int,
        hidden_dim: int,
        grid_shape: tuple[int, int],
        causal: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.colors = colors
        self.hidden_dim = hidden_dim
        self.grid_shape = tuple(grid_shape)
        self.causal = causal
        self.positions = LearnedPositions(
            self.grid_shape, dtype=self.dtype_policy, name="positions"
        )

    def build(self, input_shape):
        normal = keras.initializers.RandomNormal(stddev=0.02)
        self.embedding = self.add_weight(
            name="embedding",
            shape=(self.colors + (not self.causal), self.hidden_dim),
            initializer=normal,
        )
        if self.causal:
            self.start = self.add_weight(
                name="start_token",
                shape=(1, 1, self.hidden_dim),
                initializer=keras.initializers.RandomNormal(stddev=0.02),
            )
        self.positions.build((None, input_shape[1], self.hidden_dim))

    def call(self, numbers):
        tokens = ops.take(ops.convert_to_tensor(self.embedding), numbers, axis=0)
        if self.causal:
            start = ops.convert_to_tensor(self.start)
            shape = (ops.shape(numbers)[0], 1, self.hidden_dim)
            start = ops.broadcast_to(ops.cast(start, tokens.dtype), shape)
            tokens = ops.concatenate([start, tokens[:, :-1]], axis=1)
        return self.positions(tokens)

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.hidden_dim)
