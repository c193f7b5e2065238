"""Principal components of the filters that embed the patches."""

import keras
import numpy as np
from keras import ops

from keras_vit.visualize.batches import check_vit
from keras_vit.weights.pieces import PROJECTION


def patch_filters(model: keras.Model, components: int = 28) -> np.ndarray:
    """Compute the principal components of the linear embedding of patches.

    Args:
        model: a `keras_vit` model that embeds patches of the image: without a stem.
        components: int, number of components; fewer if the model has fewer.

    Returns:
        `(components, patch, patch, c)`, float32, in descending order of variance. Each
        has length 1; its sign is arbitrary, and chosen so that its mean is not negative.

    Raises:
        ValueError: the model has a stem or a quantized kernel, or `components` is less
            than 1.

    Example:

    >>> import keras_vit
    >>> model = keras_vit.ViT((32, 32, 3), num_layers=1)
    >>> keras_vit.visualize.patch_filters(model, components=4).shape
    (4, 16, 16, 3)

    Reference: ViT (arXiv:2010.11929) figure 7 (left).
    """
    check_vit(model)
    if components < 1:
        raise ValueError(f"components must be 1 or more; received {components}.")
    if _has_stem(model):
        raise ValueError(
            "patch_filters needs a model whose patches are cut from the image; this one "
            "has a stem. feature_channels shows what a stem computes."
        )
    if not has_filters(model):
        raise ValueError(
            "The kernel of the patches is quantized: show the filters of the model as it "
            "was before quantize()."
        )
    kernel = ops.convert_to_numpy(model.weights_by_path()[PROJECTION])
    # Rows are the pixels of a patch, columns the filters.
    centered = kernel - kernel.mean(axis=1, keepdims=True)
    directions = np.linalg.svd(centered.astype("float64"), full_matrices=False)[0]
    filters = directions[:, :components].T
    filters *= np.where(filters.mean(axis=1, keepdims=True) < 0, -1, 1)
    patch, channels = model.get_config()["patch_size"], model.input_shape[-1]
    return filters.reshape(-1, patch, patch, channels).astype("float32")


def has_filters(model: keras.Model) -> bool:
    """Return whether a model has filters to show: no stem, and a kernel of floats."""
    if _has_stem(model):
        return False
    dtype = keras.backend.standardize_dtype(model.weights_by_path()[PROJECTION].dtype)
    return "int" not in dtype


def _has_stem(model):
    return "stem" in {layer.name for layer in model.layers}
