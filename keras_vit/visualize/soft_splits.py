"""Attention between the soft splits of a T2T-ViT."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.layers import TokensToToken
from keras_vit.visualize.batches import check_vit, in_batches

# Reason for which a model has no maps, by the layers between its splits.
NO_WEIGHTS = {
    "performer": (
        "Performers approximate softmax attention with random features and never compute "
        "the weights of single tokens."
    ),
    "convolution": "The layers between the splits are linear and have no attention.",
}


def soft_split_weights(
    model: keras.Model, images: Any, step: int = 0, batch_size: int = 1
) -> np.ndarray:
    """Compute the attention weights of a Transformer between two soft splits.

    The tokens after the first split are many: with images of 224x224 pixels, the weights
    of one image are 3136x3136 numbers, 39 MB.

    Args:
        model: a `T2TViT` with `tokens="transformer"`.
        images: `(b, h, w, c)`, floats as `model.preprocessor` returns them.
        step: 0 for the Transformer after the first split, 1 for that after the second.
        batch_size: int, number of images that are computed together.

    Returns:
        `(b, n, n)`, float32, for `n` tokens in raster order. Each row sums to 1; the
        Transformers have one head.

    Raises:
        ValueError: the model has no such Transformer, or the images do not fit it.

    Example:

    >>> import keras, keras_vit
    >>> model = keras_vit.T2TViT((32, 48, 3), num_layers=1, tokens="transformer")
    >>> images = model.preprocessor(keras.random.uniform((1, 32, 48, 3), maxval=255))
    >>> keras_vit.visualize.soft_split_weights(model, images, step=1).shape
    (1, 24, 24)
    """
    stem = _stem_with_weights(model)
    if step not in (0, 1):
        raise ValueError(
            f"step must be 0 or 1, for the Transformer after the first or the second "
            f"soft split; received {step!r}."
        )

    def weights(batch):
        return stem.attention_weights(batch, step)

    return in_batches(weights, model, images, batch_size)


def soft_split_maps(
    model: keras.Model, images: Any, batch_size: int = 1
) -> list[np.ndarray]:
    """Compute the mean attention that each token between the soft splits receives.

    Args:
        model: a `T2TViT` with `tokens="transformer"`.
        images: `(b, h, w, c)`, floats as `model.preprocessor` returns them.
        batch_size: int, number of images that are computed together.

    Returns:
        Two arrays `(b, rows, columns)`, float32: the maps after the first split and those
        after the second one. The values of a map sum to 1.

    Raises:
        ValueError: the model has no such Transformers, or the images do not fit it.

    Example:

    >>> import keras, keras_vit
    >>> model = keras_vit.T2TViT((32, 48, 3), num_layers=1, tokens="transformer")
    >>> images = model.preprocessor(keras.random.uniform((1, 32, 48, 3), maxval=255))
    >>> [m.shape for m in keras_vit.visualize.soft_split_maps(model, images)]
    [(1, 8, 12), (1, 4, 6)]
    """
    stem = _stem_with_weights(model)
    height, width = model.input_shape[1:3]

    def maps(batch):
        return [
            ops.reshape(
                ops.mean(stem.attention_weights(batch, step), axis=1),
                (-1, height // stride, width // stride),
            )
            for step, stride in enumerate((4, 8))
        ]

    return in_batches(maps, model, images, batch_size)


def stem_of(model: keras.Model) -> TokensToToken | None:
    """Return the tokens-to-token module of a model, or None."""
    return next((la for la in model.layers if isinstance(la, TokensToToken)), None)


def _stem_with_weights(model):
    """Return the tokens-to-token module of a model; raise if it computes no weights."""
    check_vit(model)
    stem = stem_of(model)
    if stem is None:
        raise ValueError(f"{model.name!r} has no soft splits; a T2TViT has them.")
    if stem.tokens in NO_WEIGHTS:
        raise ValueError(
            f"{model.name!r} has tokens={stem.tokens!r}: {NO_WEIGHTS[stem.tokens]} Only "
            "a T2TViT with tokens='transformer', such as T2TViTt14, has these weights."
        )
    return stem
