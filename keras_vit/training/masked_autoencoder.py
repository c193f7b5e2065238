"""Masked autoencoder (MAE): reconstruction of hidden patches from few visible ones."""

import keras
from keras import ops

from keras_vit.layers import (
    Dense,
    LayerNorm,
    PatchesToImage,
    SinCosPositions2D,
    TransformerBlock,
)
from keras_vit.training.masking import (
    MaskedModel,
    check_backbone,
    draw,
    float_dtype,
    hidden_patches,
    patches_at,
)

# Added to the variance of a patch before the square root.
_EPSILON = 1e-6


@keras.saving.register_keras_serializable(package="keras_vit")
class MaskedAutoencoder(MaskedModel):
    """Self-supervised training of a ViT as a masked autoencoder.

    The backbone's blocks process only the visible patches and the prefix tokens, with
    `ratio=0.75` a quarter of the work. A small decoder, which is discarded after
    training, receives their tokens and a mask token for each hidden patch, and predicts
    the pixels of the hidden patches. The loss is the mean squared error, averaged over
    the hidden patches of an image and then over images; `sample_weight` weights images.

    Compile the model with an optimizer and without a loss. `fit` and `evaluate` accept
    images with or without labels, which are ignored. Training updates `backbone`: save it
    with `backbone.save("name.keras")` and load it for fine-tuning with
    `keras_vit.load_checkpoint("name.keras", include_top=True, classes=..., head="new")`.

    Input: images `(b, h, w, c)` as returned by `backbone.preprocessor`.
    Output: a dict with `"predictions"` `(b, k, p * p * c)`, the pixels of the hidden
    patches in the order of `keras_vit.layers.Patches`, in float32 under every dtype
    policy, and `"patches"` `(b, k)`, int, the indices of these patches in raster order
    from 0. The patches are in random order. `k` is `ratio` times the number of patches,
    rounded. The hidden patches are sampled for every batch in training, and with a fixed
    seed otherwise, so that evaluations are reproducible.

    Args:
        backbone: a `ViT` built with `include_top=False`, without a `stem` or relative
            positions, and with any `pooling` except `"map"`. It is trained in place.
        ratio: the fraction of patches that are hidden.
        decoder_dim: int, width of the decoder's tokens; must be divisible by 4.
        decoder_layers: int, number of decoder blocks.
        decoder_heads: int, number of attention heads of a block; must divide
            `decoder_dim`.
        decoder_mlp_dim: int, width of the blocks' MLPs; None for `4 * decoder_dim`.
        normalize_pixels: bool, whether the pixels of each patch are normalized by the
            mean and standard deviation of the patch before they are predicted.
        seed: int, seed of the random numbers used in training; None for a seed that
            `keras.utils.set_random_seed` determines. The state of the generator is a
            variable of the model.
        name: name of the model.

    Raises:
        ValueError: the backbone is not supported, a number is out of its range, or
            `ratio` hides no patch or all patches.

    Example:

    >>> import keras, keras_vit
    >>> from keras_vit.training import AdamW, MaskedAutoencoder
    >>> backbone = keras_vit.ViT(
    ...     input_shape=(32, 64, 3), patch_size=16, hidden_dim=48, num_layers=1,
    ...     num_heads=3, mlp_dim=96, include_top=False,
    ... )
    >>> model = MaskedAutoencoder(backbone, decoder_dim=64, decoder_layers=1)
    >>> model.compile(AdamW(1e-3))
    >>> pixels = keras.random.uniform((4, 32, 64, 3), maxval=255)
    >>> images = backbone.preprocessor(pixels)
    >>> history = model.fit(images, batch_size=2, verbose=0).history
    >>> sorted(history)
    ['loss']
    >>> tuple(model(images)["predictions"].shape)
    (4, 6, 768)

    Reference: MAE (arXiv:2111.06377). Deviations from its code: a patch is normalized by
    the biased variance, without the factor 768 / 767 of the unbiased one; and the decoder
    receives the tokens in shuffled order, which does not change the result.
    """

    def __init__(
        self,
        backbone,
        ratio: float = 0.75,
        decoder_dim: int = 512,
        decoder_layers: int = 8,
        decoder_heads: int = 16,
        decoder_mlp_dim: int | None = None,
        normalize_pixels: bool = True,
        seed: int | None = None,
        name: str | None = None,
    ):
        check_backbone(backbone)
        config = backbone.resolved_config()
        if config["attention_positions"] is not None:
            raise ValueError(
                f"The backbone has positions={config['positions']!r}, whose attention "
                "needs every token of the grid, and a masked autoencoder's has only the "
                "visible ones. Use positions that are added to the tokens: 'learned', "
                "'sincos_2d', ..."
            )
        hidden = hidden_patches(ratio, backbone)
        arguments = {
            "decoder_dim": decoder_dim,
            "decoder_layers": decoder_layers,
            "decoder_heads": decoder_heads,
            "decoder_mlp_dim": decoder_mlp_dim,
        }
        _check_decoder(**arguments)
        policy, dtype = backbone.dtype_policy, float_dtype(backbone)
        epsilon = config["layer_norm_epsilon"]
        images = keras.Input(backbone.input_shape[1:], name="images")
        patches = backbone.get_layer("patches")(images)
        x = backbone.get_layer("patch_encoder")(patches)
        x, order = _VisibleTokens(
            backbone.num_prefix_tokens, hidden, seed, dtype=policy, name="visible"
        )(x)
        x = backbone.get_layer("dropout")(x)
        for i in range(config["num_layers"]):
            x = backbone.get_layer(f"block_{i}")(x)
        x = backbone.get_layer("norm")(x)
        x = Dense(decoder_dim, dtype=policy, name="decoder_embedding")(x)
        x = _DecoderTokens(
            backbone.grid_shape, hidden, dtype=policy, name="decoder_tokens"
        )(x, order)
        for i in range(decoder_layers):
            x = TransformerBlock(
                decoder_heads,
                decoder_mlp_dim or 4 * decoder_dim,
                activation=config["activation"],
                layer_norm_epsilon=epsilon,
                remat=config["remat"],
                dtype=policy,
                name=f"decoder_block_{i}",
            )(x)
        x = LayerNorm(epsilon=epsilon, dtype=policy, name="decoder_norm")(x[:, -hidden:])
        x = Dense(patches.shape[-1], dtype=dtype, name="prediction")(x)
        super().__init__(
            backbone,
            images,
            {"predictions": x, "patches": order[:, -hidden:]},
            keras.losses.MeanSquaredError(dtype=dtype),
            {
                "ratio": ratio,
                **arguments,
                "normalize_pixels": normalize_pixels,
                "seed": seed,
            },
            name,
        )
        self.normalize_pixels = normalize_pixels

    def targets(self, images):
        """Return the pixels of every patch, normalized if `normalize_pixels` is set.

        Args:
            images: `(b, h, w, c)` as returned by `backbone.preprocessor`.

        Returns:
            `(b, gh * gw, p * p * c)`, float32.

        Example:

        >>> import keras, keras_vit
        >>> from keras_vit.training import MaskedAutoencoder
        >>> backbone = keras_vit.ViTTi16(
        ...     input_shape=(16, 32, 3), include_top=False, num_layers=2
        ... )
        >>> model = MaskedAutoencoder(
        ...     backbone, ratio=0.5, decoder_dim=64, decoder_layers=1
        ... )
        >>> targets = model.targets(keras.random.normal((1, 16, 32, 3)))
        >>> tuple(targets.shape), abs(round(float(keras.ops.mean(targets)), 3))
        ((1, 2, 768), 0.0)
        """
        patches = self.cut(images)
        if not self.normalize_pixels:
            return patches
        mean, deviation = _moments(patches)
        return (patches - mean) / deviation

    def reconstruct(self, images):
        """Return the images with their hidden patches replaced by predictions.

        With `normalize_pixels` the mean and standard deviation of a hidden patch are not
        predicted; they are computed from `images`.

        Args:
            images: `(b, h, w, c)` as returned by `backbone.preprocessor`.

        Returns:
            `(b, h, w, c)`, float32, on the scale of `images`. To convert them to pixel
            values, multiply by `backbone.preprocessor.std`, add its `mean` and clip to
            0 to 255.

        Example:

        >>> import keras, keras_vit
        >>> from keras_vit.training import MaskedAutoencoder
        >>> backbone = keras_vit.ViTTi16(
        ...     input_shape=(32, 64, 3), include_top=False, num_layers=2
        ... )
        >>> model = MaskedAutoencoder(backbone, decoder_dim=64, decoder_layers=1)
        >>> images = keras.random.uniform((2, 32, 64, 3), minval=-1)
        >>> pictures = model.reconstruct(images)
        >>> seen = keras.ops.all(pictures == images, axis=-1)  # 2 of 8 patches.
        >>> int(keras.ops.sum(keras.ops.cast(seen, "int32"))) == 2 * 2 * 16 * 16
        True
        """
        outputs = self(images, training=False)
        patches = self.cut(images)
        pixels, places = outputs["predictions"], outputs["patches"]
        if self.normalize_pixels:
            mean, deviation = _moments(patches_at(patches, places))
            pixels = pixels * deviation + mean
        hidden = ops.one_hot(places, patches.shape[1], dtype=pixels.dtype)
        placed = ops.einsum("bkn,bkd->bnd", hidden, pixels)
        hidden = ops.expand_dims(ops.any(hidden, axis=1), -1)
        return PatchesToImage(
            self.cut.patch_size, self.backbone.grid_shape, dtype=pixels.dtype
        )(ops.where(hidden, placed, patches))


def _check_decoder(decoder_dim, decoder_heads, **arguments):
    """Raise a `ValueError` if an argument of the decoder is out of its range."""
    numbers = {"decoder_dim": decoder_dim, "decoder_heads": decoder_heads, **arguments}
    for argument, value in numbers.items():
        if argument == "decoder_mlp_dim" and value is None:
            continue
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{argument} must be a positive int; received {value!r}.")
    for divisor, owner in (
        (decoder_heads, "decoder_heads"),
        (SinCosPositions2D.width_divisor, "what sin-cos positions need"),
    ):
        if decoder_dim % divisor:
            raise ValueError(
                f"decoder_dim={decoder_dim} must be divisible by {divisor} ({owner})."
            )


def _moments(patches):
    """Return the mean and standard deviation of each patch, `(b, n, 1)`."""
    mean, variance = ops.moments(patches, axes=-1, keepdims=True)
    return mean, ops.sqrt(variance + _EPSILON)


class _VisibleTokens(keras.layers.Layer):
    """Layer that samples the hidden patches and removes their tokens.

    Output: the prefix tokens followed by the visible tokens; and the indices of all
    patches, `(b, gh * gw)`: first those of the visible tokens, in the same order, then
    those of the hidden patches.
    """

    def __init__(self, num_prefix_tokens, hidden, seed, **kwargs):
        super().__init__(**kwargs)
        self.num_prefix_tokens = num_prefix_tokens
        self.hidden = hidden
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, tokens, training=None):
        prefix = tokens[:, : self.num_prefix_tokens]
        grid = tokens[:, self.num_prefix_tokens :]
        noise = draw(self.seed_generator, ops.shape(grid)[:2], training)
        order = ops.cast(ops.argsort(noise, axis=1), "int32")
        visible = patches_at(grid, order[:, : -self.hidden])
        return ops.concatenate([prefix, visible], axis=1), order


class _DecoderTokens(keras.layers.Layer):
    """Layer that appends mask tokens and adds fixed positions in the order of `order`."""

    def __init__(self, grid_shape, hidden, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden
        self.positions = SinCosPositions2D(
            grid_shape, dtype=self.dtype_policy, name="positions"
        )

    def build(self, tokens_shape, order_shape):
        width = tokens_shape[-1]
        self.mask_token = self.add_weight(
            name="mask_token",
            shape=(1, 1, width),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )
        self.positions.build((None, order_shape[1], width))
        self.built = True

    def call(self, tokens, order):
        batch, _, width = ops.shape(tokens)
        length = order.shape[1]
        mask_token = ops.cast(self.mask_token, tokens.dtype)
        hidden = ops.broadcast_to(mask_token, (batch, self.hidden, width))
        tokens = ops.concatenate([tokens, hidden], axis=1)
        table = self.positions(ops.zeros((1, length, width), tokens.dtype))
        positions = ops.take(table[0], order, axis=0)
        prefix = tokens.shape[1] - length
        return tokens + ops.pad(positions, ((0, 0), (prefix, 0), (0, 0)))
