"""Interpolation of position tables by the conventions of published checkpoint loaders.

The computations use NumPy, so that results are the same under every backend. Each
convention is separable: one `(target, source)` matrix for each axis.
"""

import numpy as np

from keras_vit.choices import check_choice


def _linear(distance):
    return np.maximum(1.0 - np.abs(distance), 0.0)


def _cubic(a):
    """Return the cubic convolution kernel of Keys (1981) with its free parameter `a`."""

    def kernel(distance):
        x = np.abs(distance)
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = ((a * x - 5 * a) * x + 8 * a) * x - 4 * a
        return np.where(x < 1, near, np.where(x < 2, far, 0.0))

    return kernel


def _corner_aligned(source, target):
    # The first samples of both grids coincide, and so do the last (scipy.ndimage.zoom).
    step = (source - 1) / (target - 1) if target > 1 else 1.0
    position = np.arange(target) * step
    return _linear(position[:, None] - np.arange(source))


def _half_pixel(kernel, radius, antialias):
    def matrix(source, target):
        scale = source / target
        center = (np.arange(target) + 0.5) * scale - 0.5
        if antialias:
            # When shrinking, the kernel is widened by the scale. Samples outside the
            # source are dropped, and the remaining weights normalized.
            width = max(scale, 1.0)
            weights = kernel((center[:, None] - np.arange(source)) / width)
            return weights / weights.sum(axis=1, keepdims=True)
        # The border is repeated for samples outside the source.
        first = np.floor(center).astype(int) - radius + 1
        index = first[:, None] + np.arange(2 * radius)
        weights = kernel(center[:, None] - index)
        result = np.zeros((target, source))
        rows = np.arange(target)[:, None]
        np.add.at(result, (rows, np.clip(index, 0, source - 1)), weights)
        return result

    return matrix


# PyTorch's cubic kernel has a = -0.75 without antialiasing and a = -0.5 with it.
# Published checkpoints were fine-tuned after resizing with these.
_MATRICES = {
    "google": _corner_aligned,
    "bilinear": _half_pixel(_linear, 1, antialias=False),
    "bilinear_antialias": _half_pixel(_linear, 1, antialias=True),
    "bicubic": _half_pixel(_cubic(-0.75), 2, antialias=False),
    "bicubic_antialias": _half_pixel(_cubic(-0.5), 2, antialias=True),
}

RESIZE_CONVENTIONS = tuple(_MATRICES)


def resize_axis(table: np.ndarray, length: int, resize: str) -> np.ndarray:
    """Resize the first axis of a table to `length` samples.

    Args:
        table: array of shape `(n, ...)`.
        length: int, the new `n`.
        resize: name of a convention, see `resize_grid`.

    Returns:
        Array of shape `(length, ...)` in the dtype of `table`.

    Raises:
        ValueError: `resize` is not the name of a convention.
    """
    check_choice("resize convention", resize, RESIZE_CONVENTIONS)
    table = np.asarray(table)
    matrix = _MATRICES[resize](len(table), length)
    return np.tensordot(matrix, table, axes=1).astype(table.dtype)


def resize_offsets(table: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Resize an axis of a table of relative positions to `length` samples.

    The samples of the table are taken to be at places whose distances grow in geometric
    progression from the middle (offset 0) to the ends of the new range, and the result is
    interpolated linearly between them. The ratio of the distances is at least 1.01, so
    that even a resize to the same length changes the samples.

    Args:
        table: array with an odd number of samples, one for each offset, along `axis`.
        length: int, the new number of offsets, odd.
        axis: int, the axis.

    Returns:
        Array in float64.

    Reference: BEiT (arXiv:2106.08254), code for fine-tuning at another size.
    """
    count = table.shape[axis] // 2
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        reach = (ratio**count - 1) / (ratio - 1)
        low, high = (low, ratio) if reach > length // 2 else (ratio, high)
    places = np.cumsum(ratio ** np.arange(count))
    places = np.concatenate([-places[::-1], [0.0], places])
    targets = np.arange(length) - length // 2
    matrix = np.stack(
        [np.interp(targets, places, one) for one in np.eye(len(places))], axis=1
    )
    return np.moveaxis(np.tensordot(matrix, table, axes=(1, axis)), 0, axis)


def resize_grid(grid: np.ndarray, target: tuple[int, int], resize: str) -> np.ndarray:
    """Resize a grid of vectors, such as a table of position embeddings.

    Args:
        grid: array of shape `(gh, gw, d)`.
        target: `(gh, gw)` of the result; may be rectangular.
        resize: name of the convention. `"google"`: linear, corners aligned
            (`scipy.ndimage.zoom` with `order=1`, used by Google's loaders). `"bilinear"`
            and `"bicubic"`: half-pixel centers, no antialiasing (PyTorch's
            `interpolate`, cubic a = -0.75). `"bilinear_antialias"` and
            `"bicubic_antialias"`: the same with antialiasing (cubic a = -0.5; timm's
            default for PyTorch checkpoints).

    Returns:
        Array of shape `(*target, d)` in the dtype of `grid`.

    Raises:
        ValueError: `resize` is not the name of a convention.

    Example:

    >>> import numpy as np
    >>> from keras_vit.layers import resize_grid
    >>> grid = np.arange(4.0).reshape(2, 2, 1)
    >>> resize_grid(grid, (3, 3), "google")[..., 0].tolist()
    [[0.0, 0.5, 1.0], [1.0, 1.5, 2.0], [2.0, 2.5, 3.0]]

    Reference: ViT (arXiv:2010.11929) section 3.2, "2D interpolation".
    """
    rows = resize_axis(grid, target[0], resize)
    columns = resize_axis(rows.swapaxes(0, 1), target[1], resize)
    return columns.swapaxes(0, 1)


def resize_positions(
    table: np.ndarray, source: tuple[int, int], target: tuple[int, int], resize: str
) -> np.ndarray:
    """Resize a table of 1-D positions, except for the rows before the grid.

    Args:
        table: array of shape `(1, prefix + gh * gw, d)` with `(gh, gw) = source`.
        source: grid of the table.
        target: grid of the result.
        resize: name of the convention, see `resize_grid`.

    Returns:
        Array of shape `(1, prefix + target[0] * target[1], d)`.

    Raises:
        ValueError: `resize` is not the name of a convention.
    """
    prefix = table.shape[1] - source[0] * source[1]
    grid = table[0, prefix:].reshape(*source, -1)
    grid = resize_grid(grid, target, resize).reshape(1, -1, table.shape[-1])
    return np.concatenate([table[:, :prefix], grid], axis=1)
