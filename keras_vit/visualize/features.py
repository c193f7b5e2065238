"""Pictures of the features that blocks compute for each patch."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_vit.visualize.batches import check_vit, in_batches
from keras_vit.visualize.pictures import to_unit_range


def grid_features(
    model: Any, images: Any, blocks: Sequence[int], batch_size: int = 8
) -> list[np.ndarray]:
    """Return the features of the patches after some blocks, in one pass.

    Args:
        model: a `keras_vit` model.
        images: `(b, h, w, c)`, floats as `model.preprocessor` returns them.
        blocks: numbers of the blocks.
        batch_size: int, number of images that are computed together.

    Returns:
        List of arrays `(b, gh, gw, d)`, float32, one for each block.
    """
    check_vit(model)

    def tokens(batch):
        return model.features(batch, blocks, norm=False)

    maps = in_batches(tokens, model, images, batch_size)
    return [grid.astype("float32") for grid in maps]


def patch_colors(
    model: keras.Model, images: Any, block: int = -1, batch_size: int = 8
) -> np.ndarray:
    """Show the features of patches as colors: similar features get similar colors.

    The colors are the first three principal components of the features of all patches of
    all images together, so that colors can be compared between images. Each component
    is scaled from its 1st to its 99th percentile.

    Args:
        model: a `keras_vit` model.
        images: `(b, h, w, c)`, floats as `model.preprocessor` returns them.
        block: int, number of the block; negative numbers count from the end.
        batch_size: int, number of images that are computed together.

    Returns:
        `(b, gh, gw, 3)`, float32, values 0 to 1: red is the first component.

    Raises:
        ValueError: there is no such block, or the images do not fit the model.

    Example:

    >>> import keras, keras_vit
    >>> model = keras_vit.ViT((32, 48, 3), num_layers=2)
    >>> images = model.preprocessor(keras.random.uniform((2, 32, 48, 3), maxval=255))
    >>> keras_vit.visualize.patch_colors(model, images).shape
    (2, 2, 3, 3)

    Reference: DINOv2 (arXiv:2304.07193) figure 1.
    """
    return colors_of(*grid_features(model, images, [block], batch_size))


def colors_of(grid: np.ndarray) -> np.ndarray:
    """Return the colors of features `(b, gh, gw, d)`; see `patch_colors`."""
    features = grid.reshape(-1, grid.shape[-1]).astype("float64")
    features -= features.mean(axis=0)
    # The right singular vectors, from the smaller product of the features.
    variances, directions = np.linalg.eigh(features.T @ features)
    components = features @ directions[:, np.argsort(-variances)[:3]]
    # The sign of a component is arbitrary; the majority of the patches gets dark colors.
    components *= np.where(np.median(components, axis=0) > 0, -1, 1)
    low, high = np.percentile(components, [1, 99], axis=0)
    scaled = np.clip((components - low) / np.maximum(high - low, 1e-12), 0, 1)
    missing = max(3 - scaled.shape[1], 0)
    scaled = np.pad(scaled, ((0, 0), (0, missing)))
    return scaled.reshape(*grid.shape[:3], 3).astype("float32")


def feature_channels(
    model: keras.Model, images: Any, block: int = -1, channels: int = 16
) -> np.ndarray:
    """Show single channels of the features of a block, those with the largest variance.

    Args:
        model: a `keras_vit` model.
        images: `(b, h, w, c)`, floats as `model.preprocessor` returns them.
        block: int, number of the block; negative numbers count from the end.
        channels: int, number of channels; all channels if the block has fewer.

    Returns:
        `(b, channels, gh, gw)`, float32: each map is scaled to the range 0 to 1.

    Raises:
        ValueError: there is no such block, `channels` is less than 1, or the images do
            not fit the model.

    Example:

    >>> import keras, keras_vit
    >>> model = keras_vit.ViT((32, 48, 3), num_layers=2)
    >>> images = model.preprocessor(keras.random.uniform((2, 32, 48, 3), maxval=255))
    >>> keras_vit.visualize.feature_channels(model, images, block=0, channels=4).shape
    (2, 4, 2, 3)

    Reference: T2T-ViT (arXiv:2101.11986) figure 2.
    """
    if channels < 1:
        raise ValueError(f"channels must be 1 or more; received {channels}.")
    (grid,) = grid_features(model, images, [block])
    return channels_of(grid, channels)


def channels_of(grid: np.ndarray, channels: int = 16) -> np.ndarray:
    """Return single channels of features `(b, gh, gw, d)`; see `feature_channels`."""
    chosen = []
    for image in np.moveaxis(grid, -1, 1):
        variances = image.var(axis=(1, 2))
        order = np.argsort(-variances, kind="stable")[:channels]
        chosen.append([to_unit_range(channel) for channel in image[order]])
    return np.asarray(chosen, "float32")
