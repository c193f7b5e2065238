"""Adaptation of patch projections to other numbers of channels and patch sizes."""

import functools

import numpy as np

from keras_vit.layers.resize import resize_grid


def adapt_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Adapt a kernel to another number of input channels.

    A single channel gets the sum over the old channels, so that a gray image gives the
    same tokens as an image that repeats it in every channel. For more than one channel,
    the old channels are repeated in order and scaled by `old / new` to keep the magnitude
    of the sum over all channels.

    Args:
        kernel: array `(p, p, c, d)`.
        channels: int, the new number of channels.

    Returns:
        Array `(p, p, channels, d)`.

    Reference: timm's `adapt_input_conv`, generalized to any number of channels.
    """
    old = kernel.shape[2]
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    return kernel[:, :, np.arange(channels) % old] * np.float32(old / channels)


@functools.cache
def resizing_matrix(patch_size: int, new_patch_size: int) -> np.ndarray:
    """Return the matrix that resizes flat kernels to another patch size.

    It is `pinv(B^T)`, where `B` is the matrix that resizes a patch by bilinear
    interpolation, without antialiasing as in Google's code.

    Args:
        patch_size: int, side of the kernel.
        new_patch_size: int, side of the new kernel.

    Returns:
        Array `(new_patch_size ** 2, patch_size ** 2)` in float64.
    """
    length, new = patch_size**2, new_patch_size
    basis = np.eye(length).reshape(patch_size, patch_size, length)
    matrix = resize_grid(basis, (new, new), "bilinear").reshape(new**2, length)
    return np.linalg.pinv(matrix.T)


def resize_patches(kernel: np.ndarray, patch_size: int) -> np.ndarray:
    """Resize a kernel to another patch size so that it gives nearly the same tokens.

    Applied to a resized patch, the new kernel approximates, in the least-squares sense,
    the original kernel applied to the original patch. The approximation is exact when
    the patch size increases.

    Args:
        kernel: array `(p, p, c, d)`.
        patch_size: int, the new patch size.

    Returns:
        Array `(patch_size, patch_size, c, d)`.

    Reference: FlexiViT (arXiv:2212.08013) section 3.4, PI-resize.
    """
    p = kernel.shape[0]
    matrix = resizing_matrix(p, patch_size)
    new = matrix @ kernel.reshape(p * p, -1).astype("float64")
    shape = (patch_size, patch_size, *kernel.shape[2:])
    return new.reshape(shape).astype(kernel.dtype)


def adapt_projection(
    kernel: np.ndarray, patch_size: int, new_patch_size: int, channels: int | None
) -> np.ndarray:
    """Fit the kernel of the patch projection to other channels and patches.

    Args:
        kernel: array `(p * p * c, d)`.
        patch_size: int, side `p` of the kernel's patches.
        new_patch_size: int, side of the new patches.
        channels: int, number of the new channels; None for the kernel's.

    Returns:
        Array `(new_patch_size ** 2 * channels, d)`.
    """
    old = kernel.shape[0] // patch_size**2
    if patch_size == new_patch_size and channels in (None, old):
        return kernel
    kernel = kernel.reshape(patch_size, patch_size, old, -1)
    if channels not in (None, old):
        kernel = adapt_channels(kernel, channels)
    if patch_size != new_patch_size:
        kernel = resize_patches(kernel, new_patch_size)
    return kernel.reshape(-1, kernel.shape[-1])
