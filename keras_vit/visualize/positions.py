"""Similarity of positions, as a model sees them."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.layers.relative_positions import RelativePositions
from keras_vit.visualize.attention import chosen_blocks
from keras_vit.visualize.batches import check_vit


def position_similarity(model: keras.Model, block: int = 0) -> np.ndarray:
    """Compute how similar the positions of all pairs of patches are.

    - Positions that are added to the tokens (learned, sine-cosine): the cosine of the two
      position embeddings, as in figure 7 of the ViT paper.
    - Rotary positions: the mean cosine of the angles between a query at one patch and a
      key at the other, over all pairs of entries and heads. It is the product of two
      equal vectors after their rotation.
    - Relative position biases and MLPs: the logit that is added for the pair, as the mean
      over the heads, divided by the largest magnitude.
    - `positions="relative"`: the cosine of the vector for the pair's offset and the
      vector for offset 0.

    Where a model has both kinds, the added positions are shown.

    Args:
        model: a `keras_vit` model.
        block: int, number of the block, for positions inside of the attention; negative
            numbers count from the end.

    Returns:
        `(gh, gw, gh, gw)`, float32: `[y, x]` is the map of similarities to the patch in
        row `y` and column `x`.

    Raises:
        ValueError: the model has no positions, or no such block.

    Example:

    >>> import keras_vit
    >>> model = keras_vit.ViT((32, 48, 3), num_layers=2)
    >>> similarity = keras_vit.visualize.position_similarity(model)
    >>> similarity.shape, round(float(similarity[1, 2, 1, 2]), 3)
    ((2, 3, 2, 3), 1.0)

    Reference: ViT (arXiv:2010.11929) figure 7 (center), appendix D.4.
    """
    check_vit(model)
    (layer,) = chosen_blocks(model, [block])
    added = model.get_layer("patch_encoder").positions
    inside = layer.attention.attention_positions()
    if added is not None:
        similarity = _cosines(_added_vectors(added, model))
    elif inside is None:
        raise ValueError(
            "position_similarity needs a model with positions; this one has "
            "positions='none'."
        )
    elif isinstance(inside, RelativePositions):
        similarity = _offset_similarity(inside)
    elif inside.computes_logits:
        similarity = _logit_similarity(inside, layer, model)
    else:
        similarity = _rotary_similarity(inside, layer, model)
    return similarity.reshape(*model.grid_shape, *model.grid_shape).astype("float32")


def similarity_and_distance(similarity: np.ndarray) -> float:
    """Return the rank correlation of the similarity of two patches with their distance.

    Args:
        similarity: `(gh, gw, gh, gw)`, the result of `position_similarity`.

    Returns:
        Spearman's rho over all pairs of different patches, -1 to 1: negative where
        positions are the less similar the farther apart they are.

    Example:

    >>> import keras_vit
    >>> model = keras_vit.ViT((64, 64, 3), num_layers=1, positions="sincos_2d")
    >>> similarity = keras_vit.visualize.position_similarity(model)
    >>> keras_vit.visualize.similarity_and_distance(similarity) < -0.8
    True
    """
    from scipy.stats import spearmanr  # Only needed here.

    gh, gw = similarity.shape[:2]
    places = np.mgrid[:gh, :gw].reshape(2, -1).T
    distances = np.linalg.norm(places[:, None] - places, axis=-1)
    pairs = ~np.eye(gh * gw, dtype=bool)
    matrix = similarity.reshape(gh * gw, gh * gw)
    return float(spearmanr(matrix[pairs], distances[pairs]).statistic)


def _added_vectors(layer, model):
    """Return the vectors that a layer of positions adds to the patches."""
    tokens = layer.num_prefix_tokens + int(np.prod(model.grid_shape))
    width = model.get_layer("patch_encoder").output.shape[-1]
    zeros = np.zeros((1, tokens, width), "float32")
    return ops.convert_to_numpy(layer(zeros))[0, layer.num_prefix_tokens :]


def _cosines(vectors):
    vectors = np.asarray(vectors, "float64")
    norms = np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    unit = vectors / norms
    return unit @ unit.T


def _offset_similarity(layer):
    """Compare the vectors of all offsets to that of offset 0."""
    gh, gw = layer.grid_shape
    rows, columns = map(ops.convert_to_numpy, (layer.rows, layer.columns))
    vectors = rows[:, None] + columns  # (2 gh - 1, 2 gw - 1, head_dim)
    center = vectors[gh - 1, gw - 1]
    norms = np.linalg.norm(vectors, axis=-1) * np.linalg.norm(center)
    cosines = vectors @ center / np.maximum(norms, 1e-12)
    y, x = np.mgrid[:gh, :gw].reshape(2, -1)
    return cosines[y[:, None] - y + gh - 1, x[:, None] - x + gw - 1]


def _logit_similarity(layer, block, model):
    tokens = model.num_prefix_tokens + int(np.prod(model.grid_shape))
    queries = np.zeros((1, block.num_heads, tokens, _head_dim(block)), "float32")
    logits = ops.convert_to_numpy(layer(queries)).mean(axis=0)
    logits = logits[layer.num_prefix_tokens :, layer.num_prefix_tokens :]
    return logits / max(np.abs(logits).max(), 1e-12)


def _rotary_similarity(layer, block, model):
    tokens = model.num_prefix_tokens + int(np.prod(model.grid_shape))
    ones = np.ones((1, tokens, block.num_heads, _head_dim(block)), "float32")
    rotated: Any = ops.convert_to_numpy(layer(ones))[0, layer.num_prefix_tokens :]
    rotated = rotated.reshape(len(rotated), -1)
    return rotated @ rotated.T / rotated.shape[-1]


def _head_dim(block):
    return round(block.attention.scale**-2)
