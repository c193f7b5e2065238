"""A model from a checkpoint alone."""

import os
from typing import Any

from keras_vit.models.vit import ViT
from keras_vit.weights.google import GoogleCheckpoint


def load_checkpoint(path: str | os.PathLike, **overrides: Any) -> ViT:
    """Builds the model that a checkpoint was made from, and loads it.

    Args:
        path: a Google `.npz` file of a plain ViT.
        **overrides: any argument of `keras_vit.ViT`, instead of what the file implies:
            `input_shape` (positions are resized to the new grid; needed where the file's
            grid is not square), `classes` with `head="new"` (the whole head is replaced,
            the tanh layer left out, as the paper does for fine-tuning),
            `include_top=False`, `classifier_activation=None`, ...

    Returns:
        A `keras_vit.ViT`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or not a Google ViT; its tensors are not exactly
            those of the model; or the size of its images cannot be told.

    Example:

    >>> import keras_vit
    >>> model = keras_vit.load_checkpoint("ViT-B_16.npz")  # doctest: +SKIP
    >>> larger = keras_vit.load_checkpoint(
    ...     "ViT-B_16.npz", input_shape=(384, 384, 3), classes=10, head="new"
    ... )  # doctest: +SKIP
    """
    config = GoogleCheckpoint(path).infer_config()
    if overrides.get("head") == "new" or not overrides.get("include_top", True):
        config.pop("representation_size", None)
    if overrides.get("include_top", True) and "classes" not in {**config, **overrides}:
        raise ValueError(
            f"{path} has no head: pass classes=... with head='new', or include_top=False."
        )
    if "input_shape" not in {**config, **overrides}:
        raise ValueError(
            f"{path} does not tell the size of its images (its positions do not form a "
            "square grid, or there are none): pass input_shape=(height, width, channels)."
        )
    return ViT(weights=path, **{**config, **overrides})
