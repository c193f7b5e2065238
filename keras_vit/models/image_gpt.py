"""Image GPT (iGPT): a Transformer over the pixels of small images."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.layers import (
    Classifier,
    GlobalAveragePooling,
    LayerNorm,
    PixelEmbedding,
    PixelPalette,
    Preprocessor,
    SelfAttention,
    TransformerBlock,
)
from keras_vit.layers.attention import head_dim
from keras_vit.layers.mlp import get_activation
from keras_vit.layers.resize import resize_positions
from keras_vit.models.arguments import (
    check_image_shape,
    check_numbers,
    check_preprocessor,
)
from keras_vit.models.features import FeatureMethods
from keras_vit.models.restorable_model import RestorableModel

# Attention to more pixels than this would need gigabytes for each image.
MOST_TOKENS = 4096


@keras.saving.register_keras_serializable(package="keras_vit")
class ImageGPT(FeatureMethods, RestorableModel):
    """Transformer over the pixels of small images, as colors of a palette.

    The model predicts the color of every pixel: with `causal=True` from the pixels before
    it in raster order, and with `causal=False` from all pixels, of which training masks
    some. `keras_vit.training.PixelPrediction` trains it. The features of its blocks
    measure what it has learned: `keras-vit probe RUN --block 3`.

    The input is a batch of images `(b, h, w, c)`, floats that `model.preprocessor`
    computes from pixel values 0 to 255 of images of any size. The palette is a weight of
    the model: fit it once with `model.fit_palette(images)`.

    The output is `(b, h * w, colors)`, the logits of the colors in float32. With
    `include_top=False` it is the mean of the tokens after the last norm, `(b, d)`, or
    with `pooling=None` the tokens `(b, h * w, d)`.

    Args:
        input_shape: `(height, width, channels)` of the images; may be rectangular.
        colors: int, number of colors in the palette.
        hidden_dim: int, width `d` of the tokens.
        num_layers: int, number of Transformer blocks.
        num_heads: int, number of attention heads; must divide `hidden_dim`.
        mlp_dim: int, width of the MLPs.
        causal: bool, whether each pixel is predicted from those before it.
        include_top: bool, whether the model predicts colors.
        pooling: `"gap"` or None, the pooling with `include_top=False`.
        activation: activation of the MLPs; see `keras_vit.ViT`.
        layer_norm_epsilon: float, added to the variance in the norms.
        dropout_rate: dropout rate after the positions and after every dense layer except
            the QKV projection.
        remat: bool, whether the backward pass computes each block again instead of
            storing its activations.
        preprocessor: None for a resize with antialiasing to the size of the model and a
            scale from -1 to 1; or a `Preprocessor`.
        name: name of the model.
        dtype: dtype policy; None for the global policy. Palette and logits are computed
            in float32 under every policy.

    Raises:
        ValueError: an argument is out of its range.

    Example:

    >>> import keras, keras_vit
    >>> model = keras_vit.ImageGPT(
    ...     input_shape=(8, 8, 1), colors=17, hidden_dim=48, num_layers=2, num_heads=3,
    ...     mlp_dim=96,
    ... )
    >>> pixels = keras.random.uniform((2, 28, 28, 1), maxval=255)
    >>> tuple(model(model.preprocessor(pixels)).shape)
    (2, 64, 17)

    Reference: Chen et al., "Generative Pretraining from Pixels" (ICML 2020). Deviations
    from its code: norms subtract the mean and have a bias, GELU has the tanh form, and
    the last layer is not initialized differently from the others.
    """

    _first_layer = "pixel_embedding"
    num_prefix_tokens = 0

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (32, 32, 3),
        colors: int = 512,
        hidden_dim: int = 512,
        num_layers: int = 24,
        num_heads: int = 8,
        mlp_dim: int = 2048,
        causal: bool = True,
        include_top: bool = True,
        pooling: str | None = "gap",
        activation: str = "gelu_tanh",
        layer_norm_epsilon: float = 1e-6,
        dropout_rate: float = 0.0,
        remat: bool = False,
        preprocessor: Preprocessor | None = None,
        name: str | None = None,
        dtype: str | keras.DTypePolicy | None = None,
    ):
        config: dict[str, Any] = {
            "input_shape": input_shape,
            "colors": colors,
            "hidden_dim": hidden_dim,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "mlp_dim": mlp_dim,
            "causal": causal,
            "include_top": include_top,
            "pooling": pooling,
            "activation": activation,
            "layer_norm_epsilon": layer_norm_epsilon,
            "dropout_rate": dropout_rate,
            "remat": remat,
        }
        _check(config)
        height, width, channels = config["input_shape"] = tuple(input_shape)
        if preprocessor is not None:
            check_preprocessor(preprocessor, config["input_shape"])
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        inputs, outputs = _connect(config, policy)
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        self.dtype_policy = policy  # Functional models have no argument `dtype`.
        self._constructor_config = config
        self._fixed = {p for p, w in self.weights_by_path().items() if not w.trainable}
        self.grid_shape = (height, width)
        if preprocessor is None:
            preprocessor = Preprocessor(
                image_size=(height, width), resize="bilinear_antialias"
            ).with_channels(channels)
        self.preprocessor = preprocessor

    def resolved_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, for converters."""
        return {**self._constructor_config, "final_norm": "before_pooling"}

    def _values_for(self, new, resize):
        values, path = self._values(), f"{self._first_layer}/positions/embedding"
        values[path] = resize_positions(
            values[path], self.grid_shape, new.grid_shape, resize
        )
        return values

    @property
    def palette(self) -> PixelPalette:
        """The layer that replaces pixels by the numbers of their colors."""
        return self.get_layer("palette")

    def fit_palette(self, images: Any, seed: int = 0) -> None:
        """Fit the palette to images by k-means.

        Args:
            images: `(b, h, w, c)` as returned by `preprocessor`.
            seed: int, seed of k-means.

        Raises:
            ValueError: the images have fewer different colors than the palette.
        """
        self._check_data(images)
        self.palette.adapt(ops.convert_to_numpy(images), seed)

    def generate(
        self,
        images: Any,
        known: int,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> np.ndarray:
        """Sample the pixels of images after the first ones, one after the other.

        Args:
            images: `(b, h, w, c)` as returned by `preprocessor`, whose first pixels in
                raster order are kept.
            known: int, number of pixels that are kept: `h * w // 2` for the upper half, 0
                for new images.
            temperature: float, divides the logits; 0 chooses the likeliest color.
            seed: int, seed of the samples.

        Returns:
            NumPy array `(b, h, w, c)`, float32, on the scale of `images`, in the colors
            of the palette.

        Raises:
            ValueError: the model is not causal or has no top, or an argument is out of
                its range.

        Example:

        >>> import keras, keras_vit
        >>> model = keras_vit.ImageGPT(
        ...     input_shape=(2, 3, 1), colors=5, hidden_dim=12, num_layers=1,
        ...     num_heads=2, mlp_dim=24,
        ... )
        >>> model.generate(keras.ops.zeros((4, 2, 3, 1)), known=3).shape
        (4, 2, 3, 1)

        Reference: iGPT (Chen et al., 2020), figure 1.
        """
        height, width = self.grid_shape
        self._check_generate(known, temperature)
        self._check_data(images)
        numbers = np.array(ops.convert_to_numpy(self.palette(images)))
        # Tokens do not depend on the colors after them, whatever these are.
        network = keras.Model(self.palette.output, self.output)
        generator = np.random.default_rng(seed)
        for place in range(known, height * width):
            logits = network.predict_on_batch(numbers)[:, place].astype("float64")
            numbers[:, place] = sampled(logits, temperature, generator)
        pixels = ops.convert_to_numpy(self.palette.pixels(numbers))
        return pixels.reshape(-1, height, width, pixels.shape[-1])

    def _check_generate(self, known, temperature):
        config, most = self._constructor_config, self.grid_shape[0] * self.grid_shape[1]
        if not (config["causal"] and config["include_top"]):
            raise ValueError(
                "generate needs a model with causal=True and include_top=True; received "
                f"causal={config['causal']}, include_top={config['include_top']}."
            )
        if not isinstance(known, int) or not 0 <= known <= most:
            raise ValueError(
                f"known must be an int from 0 to {most}; received {known!r}."
            )
        if not 0 <= temperature < float("inf"):
            raise ValueError(
                f"temperature must be a number, 0 or more; received {temperature!r}."
            )


def sampled(
    logits: np.ndarray, temperature: float, generator: np.random.Generator
) -> np.ndarray:
    """Sample from the distributions of a softmax.

    Args:
        logits: `(b, k)`.
        temperature: float, divides the logits; 0 returns the largest one.
        generator: source of random numbers.

    Returns:
        `(b,)`, int.
    """
    if temperature == 0:
        return logits.argmax(axis=-1)
    # The largest of logits plus Gumbel noise is a sample of their softmax.
    noise = generator.gumbel(size=logits.shape)
    return (logits / temperature + noise).argmax(axis=-1)


def _check(config):
    """Raise a `ValueError` unless the arguments of an `ImageGPT` are possible."""
    check_image_shape(config["input_shape"])
    check_numbers(config)
    head_dim(config["hidden_dim"], config["num_heads"])
    get_activation(config["activation"])
    if config["pooling"] not in ("gap", None):
        raise ValueError(
            f"pooling must be 'gap' or None; received {config['pooling']!r}."
        )
    height, width = config["input_shape"][:2]
    if height * width > MOST_TOKENS:
        raise ValueError(
            f"input_shape={config['input_shape']}: an image of {height}x{width} pixels "
            f"has {height * width} tokens; at most {MOST_TOKENS} are allowed. Use "
            "smaller images, such as (32, 32, 3): the preprocessor resizes them."
        )


def _connect(config, policy):
    """Connect the layers of an `ImageGPT`, from images to logits or features."""
    causal, epsilon = config["causal"], config["layer_norm_epsilon"]
    images = keras.Input(config["input_shape"], name="images")  # (b, h, w, c)
    numbers = PixelPalette(config["colors"], name="palette")(images)  # (b, h * w)
    x = PixelEmbedding(
        config["colors"],
        config["hidden_dim"],
        config["input_shape"][:2],
        causal=causal,
        dtype=policy,
        name="pixel_embedding",
    )(numbers)  # (b, h * w, d)
    x = keras.layers.Dropout(config["dropout_rate"], dtype=policy, name="dropout")(x)
    for index in range(config["num_layers"]):
        x = TransformerBlock(
            config["num_heads"],
            config["mlp_dim"],
            activation=config["activation"],
            layer_norm_epsilon=epsilon,
            dropout_rate=config["dropout_rate"],
            attention=SelfAttention(causal=causal),
            remat=config["remat"],
            dtype=policy,
            name=f"block_{index}",
        )(x)
    x = LayerNorm(epsilon=epsilon, dtype=policy, name="norm")(x)
    if config["include_top"]:
        dtype = keras.backend.result_type(policy.compute_dtype, "float32")
        x = Classifier(config["colors"], dtype=dtype, name="classifier")(x)
    elif config["pooling"] == "gap":
        x = GlobalAveragePooling(dtype=policy, name="pooling")(x)
    return images, x
