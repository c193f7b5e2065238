"""Pictures of which patches were merged, and of where tokens stop."""

from typing import Any

import keras
import numpy as np

from keras_vit.layers.token_merging import MergingBlock
from keras_vit.models.features import blocks_of
from keras_vit.models.halting import computed_tokens
from keras_vit.visualize.batches import check_vit, in_batches
from keras_vit.visualize.pictures import to_bytes, to_rgb


def token_groups(model: Any, images: Any, batch_size: int = 8) -> np.ndarray:
    """Return the token that each patch belongs to after the last block.

    Args:
        model: a `keras_vit.ViT` with `token_reduction`, an int or a `TokenMerging`.
        images: `(b, h, w, c)`, floats as `model.preprocessor` returns them.
        batch_size: int, number of images that are computed together.

    Returns:
        `(b, gh, gw)`, int32. Patches with the same number were merged.

    Raises:
        ValueError: the model merges no tokens.

    Example:

    >>> import keras, keras_vit
    >>> model = keras_vit.ViT((32, 48, 3), num_layers=2, token_reduction=1)
    >>> images = model.preprocessor(keras.random.uniform((1, 32, 48, 3), maxval=255))
    >>> groups = keras_vit.visualize.token_groups(model, images)
    >>> groups.shape, len(set(groups.ravel().tolist()))
    ((1, 2, 3), 4)

    Reference: ToMe (arXiv:2210.09461) figure 4.
    """
    check_vit(model)
    blocks = [block for block in blocks_of(model) if isinstance(block, MergingBlock)]
    if not blocks:
        raise ValueError(
            "token_groups needs a model that merges tokens; this one has token_reduction="
            f"{model.get_config().get('token_reduction')!r}. Use "
            "model.with_token_reduction(8)."
        )
    network = keras.Model(model.input, {"places": blocks[-1].output[2]})
    places = in_batches(network, model, images, batch_size)["places"]
    grid = places[:, model.num_prefix_tokens :]
    return grid.reshape(-1, *model.grid_shape)


def token_depths(model: Any, images: Any, batch_size: int = 64) -> np.ndarray:
    """Return the number of blocks that compute each patch.

    Args:
        model: a `keras_vit.ViT` with `token_reduction=TokenHalting(...)`.
        images: `(b, h, w, c)`, floats as `model.preprocessor` returns them.
        batch_size: int, number of images that are computed together.

    Returns:
        `(b, gh, gw)`, int, from 1 to the number of blocks; `overlay` shows a map on its
        image.

    Raises:
        ValueError: the tokens of the model do not stop.

    Example:

    >>> import keras, keras_vit
    >>> halting = keras_vit.layers.TokenHalting()
    >>> model = keras_vit.ViT((32, 48, 3), num_layers=2, token_reduction=halting)
    >>> images = model.preprocessor(keras.random.uniform((1, 32, 48, 3), maxval=255))
    >>> keras_vit.visualize.token_depths(model, images).shape
    (1, 2, 3)

    Reference: A-ViT (arXiv:2112.07658) figure 4.
    """
    check_vit(model)
    depths = computed_tokens(model, images, batch_size).sum(axis=1)
    return depths[:, model.num_prefix_tokens :].reshape(-1, *model.grid_shape)


def merged_patches(
    pixels: np.ndarray, groups: np.ndarray, border: bool = True
) -> np.ndarray:
    """Show the groups of merged patches of an image, each in its mean color.

    Args:
        pixels: `(h, w, c)`, pixel values 0 to 255, of the size of the model.
        groups: `(gh, gw)`, the groups of its patches; see `token_groups`.
        border: bool, whether groups have a border in a color of their own, as in the
            paper.

    Returns:
        `(h, w, 3)`, uint8.

    Raises:
        ValueError: the patches do not divide the image.

    Example:

    >>> import numpy as np, keras_vit
    >>> pixels = np.zeros((4, 4, 3))
    >>> pixels[:, 2:] = 200
    >>> groups = np.array([[0, 0], [1, 2]])
    >>> shown = keras_vit.visualize.merged_patches(pixels, groups, border=False)
    >>> shown[:, :, 0].tolist()
    [[100, 100, 100, 100], [100, 100, 100, 100], [0, 0, 200, 200], [0, 0, 200, 200]]

    Reference: ToMe (arXiv:2210.09461), the authors' `tome/vis.py`.
    """
    pixels, (gh, gw) = to_rgb(np.asarray(pixels, "float64")), np.shape(groups)
    height, width, _ = pixels.shape
    if height % gh or width % gw:
        raise ValueError(
            f"The grid {gh}x{gw} of groups must divide the image; received {height}x"
            f"{width} pixels. Resize them with model.preprocessor."
        )
    each = np.repeat(np.repeat(groups, height // gh, axis=0), width // gw, axis=1)
    shown = np.zeros_like(pixels)
    colors = np.random.default_rng(0).uniform(0, 255, (int(np.max(groups)) + 1, 3))
    padded = np.pad(each, 1, constant_values=-1)
    inside = np.ones_like(each, bool)
    for rows, columns in ((0, 1), (2, 1), (1, 0), (1, 2)):
        inside &= padded[rows : rows + height, columns : columns + width] == each
    for group in np.unique(groups):
        mask = each == group
        shown[mask] = pixels[mask].mean(axis=0)
        if border:
            shown[mask & ~inside] = colors[group]
    return to_bytes(shown)
