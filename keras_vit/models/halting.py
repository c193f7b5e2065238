"""Depths at which the tokens of a model stop, and models that drop these tokens."""

from typing import Any

import keras
import numpy as np

from keras_vit.layers.token_halting import TokenHalting
from keras_vit.models.features import blocks_of
from keras_vit.models.token_reduction import halts, reduction_of

# Smallest part of all tokens that a block drops.
DROPPED = 1 / 8


def computed_tokens(model: keras.Model, images: Any, batch_size: int = 64) -> np.ndarray:
    """Return which tokens each block of a model computes.

    Args:
        model: a `ViT` with `token_reduction=TokenHalting(...)`.
        images: `(b, h, w, c)`, floats as `model.preprocessor` returns them.
        batch_size: int, number of images that are computed together.

    Returns:
        `(b, L, n)`, bool, for `L` blocks and `n` tokens, prefix tokens first.

    Raises:
        ValueError: the tokens of the model do not stop.
    """
    if not halts(model):
        raise ValueError(
            "The tokens of this model do not stop; it needs a ViT with "
            f"token_reduction=TokenHalting(...); received {model!r}."
        )
    images = model._checked_data(keras.ops.convert_to_numpy(images))
    blocks = blocks_of(model)
    outputs = {block.name: [block.output[2], block.output[4]] for block in blocks}
    network = keras.Model(model.input, outputs)
    found = network.predict(images, batch_size=batch_size, verbose=0)
    length = blocks[0].input.shape[1]
    computed = np.zeros((len(images), len(blocks), length), bool)
    for index, block in enumerate(blocks):
        places, active = found[block.name]
        np.put_along_axis(computed[:, index], places, active, axis=1)
    return computed


def drop_halted_tokens(
    model: Any, images: Any, quantile: float = 1.0, batch_size: int = 64
) -> Any:
    """Return a model that drops tokens that have stopped, instead of masking them.

    Every block keeps a fixed number of tokens, so that the model is fast, and exports to
    every format: the number that suffices for a fraction `quantile` of the images. Other
    images lose the tokens that are closest to stopping a little earlier. A block that
    could drop less than an eighth of all tokens drops none: choosing them takes time too.

    Args:
        model: a `ViT` with `token_reduction=TokenHalting(...)`, which
            `keras_vit.training.AdaptiveTokens` has trained. It is not changed.
        images: `(b, h, w, c)`, floats as `model.preprocessor` returns them; some hundred
            images that were not used for training.
        quantile: float, above 0 and at most 1. With 1, the predictions for these images
            are those of `model`.
        batch_size: int, number of images that are computed together.

    Returns:
        A new, uncompiled `ViT` with the same weights.

    Raises:
        ValueError: the tokens of the model do not stop, or a number is out of its range.

    Example:

    >>> import keras, keras_vit
    >>> model = keras_vit.ViT(
    ...     (64, 64, 3), hidden_dim=48, num_layers=2, num_heads=3, mlp_dim=96, classes=10,
    ...     token_reduction=keras_vit.layers.TokenHalting(center=0.0))
    >>> images = model.preprocessor(keras.random.uniform((4, 64, 64, 3), maxval=255))
    >>> faster = keras_vit.drop_halted_tokens(model, images)
    >>> faster.output_shape
    (None, 10)

    Reference: A-ViT (arXiv:2112.07658) section 3.3.
    """
    if isinstance(quantile, bool) or not 0 < quantile <= 1:
        raise ValueError(
            f"quantile must be above 0 and at most 1; received {quantile!r}."
        )
    config = model.get_config()
    halting = reduction_of(config.get("token_reduction"))
    if isinstance(halting, TokenHalting) and halting.kept is not None:
        raise ValueError(
            f"The model already keeps {halting.kept} tokens. Use the model that was "
            "trained, without `kept`."
        )
    prefix = model.num_prefix_tokens
    computed = computed_tokens(model, images, batch_size)
    # Prefix tokens keep their places even if they have stopped.
    counts = computed[:, :, prefix:].sum(axis=2) + prefix
    kept = np.quantile(counts, quantile, axis=0, method="inverted_cdf").astype(int)
    # A block may not have more tokens than the one before, nor prefix tokens alone.
    kept = np.maximum(np.minimum.accumulate(kept), prefix + 1)
    kept = _worth_dropping(kept.tolist(), int(counts[0, 0]))
    assert isinstance(halting, TokenHalting)
    settings = (halting.scale, halting.center, halting.epsilon)
    return model.with_token_reduction(TokenHalting(*settings, kept))


def _worth_dropping(kept, length):
    """Return numbers with which a block drops many of `length` tokens, or none."""
    result: list[int] = []
    for number in kept:
        before = result[-1] if result else length
        result.append(number if before - number >= length * DROPPED else before)
    return result
