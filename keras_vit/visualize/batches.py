"""Computation over images in batches, which bounds the memory that it needs."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_vit.models.vit import ViT


def check_vit(model: Any) -> None:
    """Raise a `ValueError` unless a model is a `ViT`, such as a `T2TViT`."""
    if not isinstance(model, ViT):
        remedy = " Pass its `backbone`." if hasattr(model, "backbone") else ""
        raise ValueError(
            f"This function needs a ViT or a T2TViT; received {type(model).__name__} "
            f"{model.name!r}.{remedy}"
        )


def in_batches(
    function: Callable[[np.ndarray], Any], model: Any, images: Any, batch_size: int
) -> Any:
    """Apply a function to batches of images and join its results.

    Args:
        function: function from `(n, h, w, c)` to a tensor `(n, ...)`, or a dict or list
            of them.
        model: the `keras_vit` model that the images are for.
        images: `(b, h, w, c)`, floats as `model.preprocessor` returns them.
        batch_size: int, largest number of images in a batch.

    Returns:
        An array `(b, ...)`, or a dict or list of them.

    Raises:
        ValueError: there are no images, or they do not fit the model.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more; received {batch_size}.")
    images = keras.ops.convert_to_numpy(images)
    images = model._checked_data(images)
    # Without `predict`: tracing a network takes longer than a few images.
    parts = [
        keras.tree.map_structure(
            keras.ops.convert_to_numpy, function(images[start : start + batch_size])
        )
        for start in range(0, len(images), batch_size)
    ]
    return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)
