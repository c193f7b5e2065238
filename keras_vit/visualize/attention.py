"""Attention weights of a model, and maps of the image computed from them."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_vit.export.attention import attention_rollout as rollout_function
from keras_vit.layers import AttentionPooling, SequencePooling
from keras_vit.models.features import block_numbers, blocks_of
from keras_vit.models.token_reduction import check_keeps_tokens
from keras_vit.visualize.batches import check_vit, in_batches


class _AttentionWeights(keras.layers.Layer):
    """Attention weights of another layer, which shares its weights with this one."""

    def __init__(self, layer):
        super().__init__(dtype=layer.dtype_policy, name=f"{layer.name}_weights")
        self.layer = layer

    def call(self, tokens):
        return self.layer.attention_weights(tokens)


def chosen_blocks(model: keras.Model, blocks: int | Sequence[int] | None) -> list[Any]:
    """Return blocks as `ViT.features` chooses them, or all blocks for None.

    Raises:
        ValueError: there is no block of such a number, or no block at all.
    """
    every = blocks_of(model)
    if not every:
        raise ValueError(
            f"A {type(model).__name__} has no Transformer blocks, and so no attention to "
            "show. Use a ViT."
        )
    check_keeps_tokens(model, "attention_weights")
    if blocks is None:
        return every
    return [every[number] for number in block_numbers(model, blocks)]


def attention_weights(
    model: keras.Model,
    images: Any,
    blocks: int | Sequence[int] | None = None,
    batch_size: int = 8,
) -> np.ndarray:
    """Compute the attention weights of blocks by their plain formula.

    The weights are those of inference. They do not depend on the kernel that the model
    runs, which may never compute them.

    Args:
        model: a `keras_vit` model with `L` blocks.
        images: `(b, h, w, c)`, floats as `model.preprocessor` returns them.
        blocks: None for all blocks; otherwise as for `ViT.features`: int n for the last n
            blocks, or a list of block numbers, of which negative ones count from the end.
        batch_size: int, number of images that are computed together.

    Returns:
        `(b, L, heads, n, n)`, float32, where `n` tokens are the model's prefix tokens and
        the patches in raster order. Each row sums to 1.

    Raises:
        ValueError: there is no such block, or the images do not fit the model.

    Example:

    >>> import keras, keras_vit
    >>> model = keras_vit.ViT((32, 48, 3), num_layers=2)
    >>> images = model.preprocessor(keras.random.uniform((2, 32, 48, 3), maxval=255))
    >>> keras_vit.visualize.attention_weights(model, images, blocks=[0, -1]).shape
    (2, 2, 12, 7, 7)
    """
    layers = chosen_blocks(model, blocks)
    # A dict, because Keras unpacks a list of outputs that has a single entry.
    outputs = {layer.name: _AttentionWeights(layer)(layer.input) for layer in layers}
    network = keras.Model(model.input, outputs)
    weights = in_batches(network, model, images, batch_size)
    return np.stack([weights[layer.name] for layer in layers], axis=1)


def pooling_weights(model: keras.Model, images: Any, batch_size: int = 8) -> np.ndarray:
    """Compute the weights with which a model pools its tokens.

    They are the attention weights of the probe with `pooling="map"`, and those of the
    mean with `pooling="sequence"`, which has one head.

    Args:
        model: a `keras_vit` model with one of these poolings.
        images: `(b, h, w, c)`, floats as `model.preprocessor` returns them.
        batch_size: int, number of images that are computed together.

    Returns:
        `(b, heads, gh, gw)`, float32; each map sums to 1, or to 1 minus the attention to
        those prefix tokens that the probe sees.

    Raises:
        ValueError: the model has another pooling.

    Example:

    >>> import keras, keras_vit
    >>> model = keras_vit.ViT((32, 48, 3), num_layers=2, pooling="map")
    >>> images = model.preprocessor(keras.random.uniform((2, 32, 48, 3), maxval=255))
    >>> keras_vit.visualize.pooling_weights(model, images).shape
    (2, 12, 2, 3)
    """
    check_vit(model)
    kinds = (AttentionPooling, SequencePooling)
    pooling = next((la for la in model.layers if isinstance(la, kinds)), None)
    if pooling is None:
        raise ValueError(
            "pooling_weights needs a model with pooling='map' or 'sequence'; this one "
            f"has pooling={model.get_config()['pooling']!r}."
        )
    outputs = {"weights": _AttentionWeights(pooling)(pooling.input)}
    network = keras.Model(model.input, outputs)
    weights = in_batches(network, model, images, batch_size)["weights"]
    gh, gw = model.grid_shape
    return weights[..., 0, -gh * gw :].reshape(*weights.shape[:2], gh, gw)


def head_maps(weights: np.ndarray, model: keras.Model) -> np.ndarray:
    """Return the attention to each patch as maps, for every block and head.

    The maps show the attention of the class token, or in a model without one the mean
    attention of all patches.

    Args:
        weights: `(b, L, heads, n, n)`, the result of `attention_weights`.
        model: the model of these weights.

    Returns:
        `(b, L, heads, gh, gw)`. The values of a map sum to 1 minus the attention to the
        prefix tokens.

    Raises:
        ValueError: the weights are those of another number of tokens.

    Example:

    >>> import keras, keras_vit
    >>> model = keras_vit.ViT((32, 48, 3), num_layers=2)
    >>> images = model.preprocessor(keras.random.uniform((2, 32, 48, 3), maxval=255))
    >>> weights = keras_vit.visualize.attention_weights(model, images)
    >>> keras_vit.visualize.head_maps(weights, model).shape
    (2, 2, 12, 2, 3)
    """
    check_vit(model)
    prefix = model.num_prefix_tokens
    _check_tokens(weights, model.grid_shape, prefix)
    if has_class_token(model):
        rows = weights[..., 0, prefix:]
    else:
        rows = weights[..., prefix:, prefix:].mean(axis=-2)
    return rows.reshape(*rows.shape[:-1], *model.grid_shape)


def has_class_token(model: keras.Model) -> bool:
    """Return whether the first token of a model is a class token."""
    return bool(model.get_layer("patch_encoder").has_class_token)


def attention_rollout(model: keras.Model, images: Any, batch_size: int = 8) -> np.ndarray:
    """Estimate the contribution of each patch to the prediction, from attention alone.

    Each block is modeled as the mean of the identity (the residual branch) and its
    attention weights, averaged over the heads; the map is the product over all blocks.

    Args:
        model: a `keras_vit` model.
        images: `(b, h, w, c)`, floats as `model.preprocessor` returns them.
        batch_size: int, number of images that are computed together.

    Returns:
        `(b, gh, gw)`, float32, values of 0 or more. The values of a map sum to 1 minus
        the share of the prefix tokens.

    Example:

    >>> import keras, keras_vit
    >>> model = keras_vit.ViT((32, 48, 3), num_layers=2)
    >>> images = model.preprocessor(keras.random.uniform((2, 32, 48, 3), maxval=255))
    >>> keras_vit.visualize.attention_rollout(model, images).shape
    (2, 2, 3)

    Reference: arXiv:2005.00928.
    """
    check_vit(model)
    rollout = rollout_function(model)
    return in_batches(rollout, model, images, batch_size)


def mean_attention_distance(
    weights: np.ndarray,
    grid_shape: tuple[int, int],
    patch_size: float = 1.0,
    num_prefix_tokens: int = 0,
) -> np.ndarray:
    """Compute the mean distance over which each head attends.

    For each patch, the distances to all patches are averaged with the attention weights,
    then over patches and images. Prefix tokens have no place in the image: they are left
    out, and the remaining weights of each row are scaled to sum to 1.

    Args:
        weights: `(b, L, heads, n, n)`, the result of `attention_weights`.
        grid_shape: `(gh, gw)`, rows and columns of patches.
        patch_size: distance between neighboring patches, in pixels of the image.
        num_prefix_tokens: int, number of tokens before the grid.

    Returns:
        `(L, heads)`, in the unit of `patch_size`.

    Raises:
        ValueError: the number of tokens is not that of the grid and the prefix tokens.

    Example:

    >>> import numpy as np, keras_vit
    >>> to_the_left = np.array([[1.0, 0.0], [1.0, 0.0]])[None, None, None]
    >>> keras_vit.visualize.mean_attention_distance(to_the_left, (1, 2), 16).tolist()
    [[8.0]]

    Reference: ViT (arXiv:2010.11929) figure 7 (right) and figure 11.
    """
    _check_tokens(weights, grid_shape, num_prefix_tokens)
    gh, gw = grid_shape
    places = np.mgrid[:gh, :gw].reshape(2, -1).T * float(patch_size)
    distances = np.linalg.norm(places[:, None] - places, axis=-1)
    weights = weights[..., num_prefix_tokens:, num_prefix_tokens:]
    mean = (weights * distances).sum(axis=-1) / weights.sum(axis=-1)
    return mean.mean(axis=(0, -1))


def _check_tokens(weights, grid_shape, num_prefix_tokens):
    """Raise a `ValueError` unless weights are those of a grid and its prefix tokens."""
    gh, gw = grid_shape
    tokens = num_prefix_tokens + gh * gw
    if weights.shape[-2:] != (tokens, tokens):
        raise ValueError(
            f"A grid of {gh}x{gw} and {num_prefix_tokens} prefix tokens has {tokens} "
            f"tokens; received attention weights of shape {weights.shape}."
        )
