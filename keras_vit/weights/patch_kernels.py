"""Patch projections for other channels and other patch sizes."""

import numpy as np

from keras_vit.layers.resize import resize_grid


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """A kernel for another number of input channels.

    One channel gets the sum over the old ones: a grey image then gives what it gave
    with its value in every channel. More repeat the old channels in their order, and
    are scaled by old / new, as there are more to be summed.

    Args:
        kernel: array `(p, p, c, d)`.
        channels: int, wanted.

    Returns:
        Array `(p, p, channels, d)`.

    Source: timm's `adapt_input_conv`, here for any numbers.
    """
    old = kernel.shape[2]
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    return kernel[:, :, np.arange(channels) % old] * np.float32(old / channels)


def resize_patches(kernel: np.ndarray, patch_size: int) -> np.ndarray:
    """A kernel for patches of another size, which gives nearly the same tokens.

    The one whose product with a resized patch is closest to that of this kernel with the
    patch itself: with `B` the matrix that resizes a patch bilinearly with antialiasing,
    `pinv(B^T) kernel`. Growing patches lose nothing.

    Args:
        kernel: array `(p, p, c, d)`.
        patch_size: int, wanted.

    Returns:
        Array `(patch_size, patch_size, c, d)`.

    Source: FlexiViT (arXiv:2212.08013) section 3.4, PI-resize.
    """
    p = kernel.shape[0]
    basis = np.eye(p * p).reshape(p, p, p * p)
    resized = resize_grid(basis, (patch_size, patch_size), "bilinear_antialias")
    matrix = resized.reshape(patch_size**2, p * p)
    new = np.linalg.pinv(matrix.T) @ kernel.reshape(p * p, -1).astype("float64")
    shape = (patch_size, patch_size, *kernel.shape[2:])
    return new.reshape(shape).astype(kernel.dtype)
