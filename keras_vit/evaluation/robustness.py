"""Accuracy on images with dropped, shuffled and hidden patches."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_vit.evaluation.accuracy import check_classes, image_batches
from keras_vit.training import config as configs
from keras_vit.training.image_sets import check_single, open_parts
from keras_vit.training.networks import classifier

# Parts of the patches that are dropped, or parts of the area that are hidden.
PARTS = (0.0, 0.125, 0.25, 0.5, 0.75, 0.9)


def drop_patches(images, grid_shape, part, generator):
    """Set a random part of the patches of each image to 0, the mean color.

    Args:
        images: `(b, h, w, c)`, preprocessed.
        grid_shape: `(gh, gw)`, rows and columns of patches, which divide `h` and `w`.
        part: float, 0 to 1.
        generator: NumPy random generator.

    Returns:
        New images.
    """
    b, (gh, gw) = len(images), grid_shape
    ranks = generator.random((b, gh * gw)).argsort(axis=1).argsort(axis=1)
    kept = (ranks >= round(part * gh * gw)).reshape(b, gh, gw)
    h, w = images.shape[1] // gh, images.shape[2] // gw
    return images * kept.repeat(h, axis=1).repeat(w, axis=2)[..., None]


def shuffle_patches(images, grid_shape, part, generator):
    """Exchange a random part of the patches of each image among each other.

    Args:
        images: as for `drop_patches`.
        grid_shape: as for `drop_patches`.
        part: float, 0 to 1.
        generator: NumPy random generator.

    Returns:
        New images.
    """
    (b, height, width, c), (gh, gw) = images.shape, grid_shape
    h, w = height // gh, width // gw
    patches = images.reshape(b, gh, h, gw, w, c).swapaxes(2, 3).reshape(b, gh * gw, -1)
    shuffled = patches.copy()
    for image in range(b):
        chosen = generator.permutation(gh * gw)[: round(part * gh * gw)]
        shuffled[image, chosen] = patches[image, generator.permutation(chosen)]
    shuffled = shuffled.reshape(b, gh, gw, h, w, c).swapaxes(2, 3)
    return shuffled.reshape(images.shape)


def hide_center(images, grid_shape, part, generator):
    """Set a centered rectangle of whole patches to 0, the mean color.

    Args:
        images: as for `drop_patches`.
        grid_shape: as for `drop_patches`.
        part: float, 0 to 1, of the area; sides are rounded to whole patches.
        generator: unused.

    Returns:
        New images.
    """
    (gh, gw), hidden = grid_shape, images.copy()
    h, w = images.shape[1] // gh, images.shape[2] // gw
    rows, columns = _center(grid_shape, part)
    top, left = (gh - rows) // 2, (gw - columns) // 2
    hidden[:, top * h : (top + rows) * h, left * w : (left + columns) * w] = 0
    return hidden


def _center(grid_shape, part):
    """Return the rows and the columns of the patches that are hidden."""
    return [round(np.sqrt(part) * size) for size in grid_shape]


def changed_part(name: str, grid_shape: tuple[int, int], part: float) -> float:
    """Return the part of the patches that a change really affects, in whole patches.

    Args:
        name: a key of `CHANGES`.
        grid_shape: as for `drop_patches`.
        part: float, 0 to 1, the part that is wanted.
    """
    count = math.prod(grid_shape)
    hidden = name == "hidden center"
    patches = math.prod(_center(grid_shape, part)) if hidden else round(part * count)
    return patches / count


CHANGES: dict[str, Callable[..., np.ndarray]] = {
    "dropped": drop_patches,
    "shuffled": shuffle_patches,
    "hidden center": hide_center,
}


def robustness(config: configs.Config, seed: int = 0) -> dict[str, Any]:
    """Measure the accuracy on changed images.

    Args:
        config: config with the model or the checkpoint, and `data.test`.
        seed: int, seed of the random choices.

    Returns:
        Dict from the name of each change to a dict from the part of the patches that is
        changed, in whole patches, to the accuracy.

    Raises:
        ValueError: `data.test` is missing, or has other classes than the model, or the
            model's patches do not divide the image.

    Reference: Intriguing Properties of Vision Transformers (arXiv:2105.10497).
    """
    if not config.data.test:
        raise ValueError(
            "Robustness needs data.test: --set data.test=folder:PATH or tfds:NAME."
        )
    check_single(config.data)
    source = open_parts(config.data, ("test",))["test"]
    model: Any = classifier(config)
    check_classes(model, config.data.test, source, config)
    _check_grid(model)
    generator = np.random.default_rng(seed)
    # The part in the results is that of whole patches, which depends on the grid.
    wanted = {
        (name, changed_part(name, model.grid_shape, part)): part
        for name in CHANGES
        for part in PARTS
    }
    correct = dict.fromkeys(wanted, 0)
    seen = 0
    for images, labels, real in image_batches(model, source, config):
        seen += int(real.sum())
        for (name, shown), part in wanted.items():
            changed = CHANGES[name](images, model.grid_shape, part, generator)
            predicted = np.asarray(model.predict_on_batch(changed)).argmax(axis=-1)
            correct[name, shown] += int(np.sum((predicted == labels)[real]))
    results: dict[str, dict[str, float]] = {name: {} for name in CHANGES}
    for (name, part), count in correct.items():
        results[name][f"{part:g}"] = count / seen
    return results


def _check_grid(model):
    """Raise a `ValueError` unless the grid of a model divides its images."""
    sides, grid = tuple(model.input_shape[1:3]), tuple(model.grid_shape)
    if any(side % cells for side, cells in zip(sides, grid, strict=True)):
        raise ValueError(
            f"The {grid[0]}x{grid[1]} grid of the model does not divide its images of "
            f"{sides[0]}x{sides[1]} pixels: pass --set model.arguments.input_shape=... "
            "with sides that it divides."
        )
