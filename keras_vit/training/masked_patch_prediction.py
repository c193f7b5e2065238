"""Masked patch prediction, the self-supervised objective of the ViT paper."""

import keras
from keras import ops

from keras_vit.layers import Classifier
from keras_vit.training.masking import (
    MaskedModel,
    by_patch,
    check_backbone,
    draw,
    float_dtype,
    hidden_patches,
    patches_at,
)
from keras_vit.training.schedules import is_number

# Each channel of the mean color has 3 bits.
_LEVELS = 8
_MAX_CHANNELS = 5


@keras.saving.register_keras_serializable(package="keras_vit")
class MaskedPatchPrediction(MaskedModel):
    """Self-supervised training of a ViT to predict the mean color of corrupted patches.

    A fraction of each image's patch embeddings is corrupted, after the projection and
    before the positions are added: most are replaced by a learned mask token, some by the
    embedding of another patch of the image, and some are kept. From the final tokens of
    these patches the model predicts their mean colors, with 3 bits per channel. The loss
    is the cross-entropy, averaged over the corrupted patches of an image and then over
    images; `"accuracy"` is the fraction of corrupted patches whose color is predicted
    correctly. `sample_weight` weights images in both.

    Compile the model with an optimizer and without a loss or metrics. `fit` and
    `evaluate` accept images with or without labels, which are ignored. Training updates
    `backbone`: save it with `backbone.save("name.keras")` and load it for fine-tuning
    with `keras_vit.load_checkpoint("name.keras", include_top=True, classes=...,
    head="new")`.

    Input: images `(b, h, w, c)` as returned by `backbone.preprocessor`.
    Output: a dict with `"predictions"`, logits `(b, k, 8 ** c)` in float32 under every
    dtype policy, and `"patches"` `(b, k)`, int, the indices of the corrupted patches in
    raster order from 0. The patches are in random order. `k` is `ratio` times the number
    of patches, rounded. Patches and corruption are sampled for every batch in training,
    and with a fixed seed otherwise, so that evaluations are reproducible.

    Args:
        backbone: a `ViT` built with `include_top=False`, without a `stem`, and with any
            `pooling` except `"map"`. It is trained in place.
        ratio: the fraction of patches that are corrupted.
        mask_probability: float, probability that a corrupted patch becomes the mask
            token.
        replace_probability: float, probability that a corrupted patch becomes another
            patch. The remaining corrupted patches are kept; their colors are predicted
            too.
        seed: int, seed of the random numbers used in training; None for a seed that
            `keras.utils.set_random_seed` determines. The state of the generator is a
            variable of the model.
        name: name of the model.

    Raises:
        ValueError: the backbone is not supported, a number is out of its range, or
            `ratio` hides no patch or all patches.

    Example:

    >>> import keras, keras_vit
    >>> from keras_vit.training import AdamW, MaskedPatchPrediction
    >>> backbone = keras_vit.ViT(
    ...     input_shape=(32, 48, 3), patch_size=16, hidden_dim=48, num_layers=1,
    ...     num_heads=3, mlp_dim=96, include_top=False,
    ... )
    >>> model = MaskedPatchPrediction(backbone)
    >>> model.compile(AdamW(2e-4))
    >>> pixels = keras.random.uniform((4, 32, 48, 3), maxval=255)
    >>> images = backbone.preprocessor(pixels)
    >>> history = model.fit(images, batch_size=2, verbose=0).history
    >>> sorted(history)
    ['accuracy', 'loss']
    >>> tuple(model(images)["predictions"].shape)
    (4, 3, 512)

    Reference: ViT (arXiv:2010.11929) section 4.6 and appendix B.1.2. The paper does not
    specify from which image a replacement patch comes; here it is the same image.
    """

    def __init__(
        self,
        backbone,
        ratio: float = 0.5,
        mask_probability: float = 0.8,
        replace_probability: float = 0.1,
        seed: int | None = None,
        name: str | None = None,
    ):
        check_backbone(backbone)
        corrupted = hidden_patches(ratio, backbone)
        probabilities = (mask_probability, replace_probability)
        if (
            not all(is_number(p) and p >= 0 for p in probabilities)
            or sum(probabilities) > 1
        ):
            raise ValueError(
                "mask_probability and replace_probability must be numbers, 0 or more, "
                f"with a sum of at most 1; received {mask_probability!r} and "
                f"{replace_probability!r}."
            )
        input_shape = backbone.input_shape[1:]
        if input_shape[2] > _MAX_CHANNELS:
            raise ValueError(
                f"Images with {input_shape[2]} channels have 8 ** {input_shape[2]} "
                f"colors to predict; at most {_MAX_CHANNELS} channels are possible. "
                "MaskedAutoencoder takes any number."
            )
        dtype = float_dtype(backbone)
        images = keras.Input(input_shape, name="images")
        x = backbone.get_layer("patches")(images)
        x, patches = _CorruptedPatchEncoder(
            backbone.get_layer("patch_encoder"),
            corrupted,
            *probabilities,
            seed,
            dtype=backbone.dtype_policy,
            name="corruption",
        )(x)
        x = backbone.get_layer("dropout")(x)
        for i in range(backbone.resolved_config()["num_layers"]):
            x = backbone.get_layer(f"block_{i}")(x)
        x = patches_at(x, patches + backbone.num_prefix_tokens)
        x = backbone.get_layer("norm")(x)
        x = Classifier(_LEVELS ** input_shape[2], dtype=dtype, name="prediction")(x)
        super().__init__(
            backbone,
            images,
            {"predictions": x, "patches": patches},
            keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype=dtype),
            {
                "ratio": ratio,
                "mask_probability": mask_probability,
                "replace_probability": replace_probability,
                "seed": seed,
            },
            name,
        )
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def targets(self, images):
        """Return the mean color of every patch as a class index.

        Args:
            images: `(b, h, w, c)` as returned by `backbone.preprocessor`.

        Returns:
            `(b, gh * gw)`, int32. The index is a number in base 8 with one digit per
            channel, first channel first: `floor(mean / 32)` of pixel values 0 to 255.

        Example:

        >>> import keras, keras_vit
        >>> from keras_vit.training import MaskedPatchPrediction
        >>> backbone = keras_vit.ViTTi16(
        ...     input_shape=(16, 32, 3), include_top=False, num_layers=2
        ... )
        >>> white = backbone.preprocessor(255 * keras.ops.ones((1, 16, 32, 3)))
        >>> colours = MaskedPatchPrediction(backbone).targets(white)
        >>> keras.ops.convert_to_numpy(colours).tolist()
        [[511, 511]]
        """
        patches = self.cut(images)
        channels = images.shape[-1]
        patches = ops.reshape(
            patches, (-1, *patches.shape[1:2], self.cut.patch_size**2, channels)
        )
        means = ops.mean(patches, axis=2)
        preprocessor = self.backbone.preprocessor
        means = means * ops.convert_to_tensor(preprocessor.std, means.dtype)
        means = means + ops.convert_to_tensor(preprocessor.mean, means.dtype)
        # Undoing the preprocessor's scaling turns a mean of 32 into 31.99999.
        levels = ops.floor((means + 1e-3) * (_LEVELS / 256))
        levels = ops.cast(ops.clip(levels, 0, _LEVELS - 1), "int32")
        places = [_LEVELS**power for power in reversed(range(channels))]
        return ops.sum(levels * ops.convert_to_tensor(places, "int32"), axis=-1)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        targets, logits = self._targets_and_predictions(x, y_pred)
        self.accuracy.update_state(targets, logits, by_patch(sample_weight))
        return self.get_metrics_result()


class _CorruptedPatchEncoder(keras.layers.Layer):
    """Layer that wraps a `PatchEncoder` and corrupts its projected patches.

    Input: flat patches. Output: tokens, and the indices of the corrupted patches,
    `(b, count)`.
    """

    def __init__(
        self, encoder, count, mask_probability, replace_probability, seed, **kwargs
    ):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.count = count
        self.mask_probability = mask_probability
        self.replace_probability = replace_probability
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape):
        self.mask_token = self.add_weight(
            name="mask_token",
            shape=(1, 1, self.encoder.hidden_dim),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
        )
        self.built = True

    def call(self, patches, training=None):
        tokens = self.encoder.projection(patches)
        batch, length, _ = ops.shape(tokens)
        noise = draw(self.seed_generator, (batch, length, 3), training)
        order = ops.argsort(noise[..., 0], axis=1)
        corrupted = ops.argsort(order, axis=1) < self.count
        # Kept patches get 1, which exceeds every sample and so both probabilities.
        chance = ops.expand_dims(ops.where(corrupted, noise[..., 1], 1.0), -1)
        distance = 1 + ops.cast(noise[..., 2] * (length - 1), "int32")
        others = patches_at(
            tokens, (ops.arange(length, dtype="int32") + distance) % length
        )
        reach = self.mask_probability + self.replace_probability
        tokens = ops.where(chance < reach, others, tokens)
        mask_token = ops.cast(self.mask_token, tokens.dtype)
        tokens = ops.where(chance < self.mask_probability, mask_token, tokens)
        tokens = self.encoder.add_prefix_and_positions(tokens)
        return tokens, ops.cast(order[:, : self.count], "int32")
