"""Prediction of pixels as colors of a palette, the objectives of iGPT."""

import math
from typing import Any

import keras
from keras import ops

from keras_vit.models.image_gpt import ImageGPT
from keras_vit.training.backbone_model import UnlabeledModel
from keras_vit.training.masking import (
    by_patch,
    draw,
    float_dtype,
    patches_at,
)
from keras_vit.training.schedules import is_number


@keras.saving.register_keras_serializable(package="keras_vit")
class PixelPrediction(UnlabeledModel):
    """Self-supervised training of an `ImageGPT`.

    A causal backbone predicts the color of every pixel from the pixels before it. Another
    one predicts the colors of masked pixels from all others, as in BERT. The loss is the
    cross-entropy, averaged over the predicted pixels of an image and then over images;
    `sample_weight` weights images. `"bits_per_dim"` is the loss in bits: a dimension is
    one pixel, whose color comes from the palette. `"accuracy"` is the fraction of pixels
    whose color is predicted correctly.

    Compile the model with an optimizer and without a loss or metrics. `fit` and
    `evaluate` accept images with or without labels, which are ignored. Training updates
    `backbone`, whose palette should be fitted before: `backbone.fit_palette(images)`.

    Input: images `(b, h, w, c)` as returned by `backbone.preprocessor`.
    Output: a dict with `"predictions"` `(b, k, colors)`, logits in float32 under every
    dtype policy, and `"targets"` `(b, k)`, int, the true colors of the same pixels. `k`
    is `h * w` for a causal backbone, and `ratio` times that, rounded, for another one.
    The masked pixels are sampled for every batch in training, and with a fixed seed
    otherwise, so that evaluations are reproducible.

    Args:
        backbone: an `ImageGPT` with `include_top=True`. It is trained in place.
        ratio: the fraction of pixels that are masked; without effect if the backbone is
            causal.
        seed: int, seed of the random numbers used in training; None for a seed that
            `keras.utils.set_random_seed` determines. The state of the generator is a
            variable of the model.
        name: name of the model.

    Raises:
        ValueError: the backbone is no `ImageGPT` with a top, or `ratio` masks no pixel or
            all pixels.

    Example:

    >>> import keras, keras_vit
    >>> from keras_vit.training import AdamW, PixelPrediction
    >>> backbone = keras_vit.ImageGPT(
    ...     input_shape=(4, 4, 1), colors=5, hidden_dim=24, num_layers=1, num_heads=2,
    ...     mlp_dim=48,
    ... )
    >>> model = PixelPrediction(backbone)
    >>> model.compile(AdamW(1e-3))
    >>> images = keras.random.uniform((4, 4, 4, 1), minval=-1)
    >>> history = model.fit(images, batch_size=2, verbose=0).history
    >>> sorted(history)
    ['accuracy', 'bits_per_dim', 'loss']

    Reference: Chen et al., "Generative Pretraining from Pixels" (ICML 2020), section 2.1.
    Deviation: exactly `ratio` of the pixels are masked in each image, where the paper
    draws each pixel with this probability.
    """

    def __init__(
        self,
        backbone: ImageGPT,
        ratio: float = 0.15,
        seed: int | None = None,
        name: str | None = None,
    ):
        masked = _check(backbone, ratio)
        config, dtype = backbone.resolved_config(), float_dtype(backbone)
        images = keras.Input(backbone.input_shape[1:], name="images")
        x = numbers = backbone.get_layer("palette")(images)
        if masked:
            x, places = _PixelMask(config["colors"], masked, seed, name="mask")(numbers)
            numbers = patches_at(numbers, places)
        x = backbone.get_layer("pixel_embedding")(x)
        x = backbone.get_layer("dropout")(x)
        for i in range(config["num_layers"]):
            x = backbone.get_layer(f"block_{i}")(x)
        if masked:
            x = patches_at(x, places)
        x = backbone.get_layer("classifier")(backbone.get_layer("norm")(x))
        outputs = {"predictions": x, "targets": numbers}
        arguments = {"ratio": ratio, "seed": seed}
        super().__init__(backbone, images, outputs, arguments, name)
        self.objective = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, dtype=dtype
        )
        self.bits = keras.metrics.Mean(name="bits_per_dim")
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        arguments = y_pred["targets"], y_pred["predictions"], by_patch(sample_weight)
        return self.objective(*arguments)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        targets, logits = y_pred["targets"], y_pred["predictions"]
        weights = by_patch(sample_weight)
        losses = keras.losses.sparse_categorical_crossentropy(
            targets, logits, from_logits=True
        )
        self.bits.update_state(losses / math.log(2), weights)
        self.accuracy.update_state(targets, logits, weights)
        return self.get_metrics_result()


def _check(backbone: Any, ratio: Any) -> int:
    """Check the arguments, and return the number of masked pixels, 0 if causal."""
    if not isinstance(backbone, ImageGPT) or not backbone.get_config()["include_top"]:
        raise ValueError(
            "backbone must be a keras_vit.ImageGPT with include_top=True; received "
            f"{backbone!r}."
        )
    if backbone.get_config()["causal"]:
        return 0
    height, width = backbone.grid_shape
    if not is_number(ratio) or not 0 < ratio < 1:
        raise ValueError(f"ratio must be a number between 0 and 1; received {ratio!r}.")
    masked = round(ratio * height * width)
    if not 0 < masked < height * width:
        raise ValueError(
            f"ratio={ratio!r} of the {height * width} pixels of an image is {masked}: at "
            "least one must be masked and one known. Change the ratio."
        )
    return masked


class _PixelMask(keras.layers.Layer):
    """Layer that replaces some colors by the number of the masked pixel.

    Output: the colors `(b, n)`, and the indices of the masked pixels `(b, count)`.
    """

    def __init__(self, colors, count, seed, **kwargs):
        super().__init__(**kwargs)
        self.colors = colors
        self.count = count
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, numbers, training=None):
        noise = draw(self.seed_generator, ops.shape(numbers), training)
        order = ops.argsort(noise, axis=1)
        masked = ops.argsort(order, axis=1) < self.count
        places = ops.cast(order[:, : self.count], "int32")
        return ops.where(masked, self.colors, numbers), places
