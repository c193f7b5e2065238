"""Conversion of images to flat patches and back."""

from collections.abc import Iterable, Sequence

import keras
from keras import ops

from keras_vit.layers.base import Layer


def grid_shape(input_shape: Sequence[int], patch_size: int) -> tuple[int, int]:
    """Return the number of rows and columns of patches that tile an image.

    Args:
        input_shape: `(h, w, c)` of the image, in pixels.
        patch_size: side of a square patch, in pixels.

    Returns:
        `(gh, gw)`, two ints.

    Raises:
        ValueError: `input_shape` is not three positive ints, `patch_size` is not a
            positive int, or the patch size does not divide the image size.
    """
    if type(patch_size) is not int or patch_size < 1:
        raise ValueError(
            f"patch_size must be a positive int (pixels); received {patch_size!r}."
        )
    sizes = tuple(input_shape) if isinstance(input_shape, Iterable) else ()
    if len(sizes) != 3 or not all(type(s) is int and s > 0 for s in sizes):
        raise ValueError(
            "input_shape must be three positive ints (height, width, channels); "
            f"received {input_shape!r}."
        )
    height, width, channels = sizes
    if height % patch_size or width % patch_size:
        nearest = tuple(
            max(round(size / patch_size), 1) * patch_size for size in (height, width)
        )
        raise ValueError(
            f"An image of {height}x{width} pixels cannot be cut into patches of "
            f"{patch_size}x{patch_size}: both sides must be multiples of {patch_size}. "
            f"Resize to {nearest[0]}x{nearest[1]}, input_shape={(*nearest, channels)}, "
            "or change patch_size."
        )
    return height // patch_size, width // patch_size


@keras.saving.register_keras_serializable(package="keras_vit")
class Patches(Layer):
    """Layer that cuts images into square, non-overlapping patches and flattens them.

    Patches are in raster order. Within a patch the values are ordered
    (row, column, channel), the order of a `(p, p, c, d)` convolution kernel, so
    `Patches` followed by a `Dense` layer with the kernel reshaped to
    `(p * p * c, d)` equals a convolution with stride `p`.

    Input: `(b, h, w, c)`, any float dtype and range.
    Output: `(b, gh * gw, p * p * c)` with `gh = h / p` and `gw = w / p`.

    Args:
        patch_size: int, side `p` of a patch in pixels.

    Raises:
        ValueError: the patch size does not divide the image size, or the input does not
            have rank 4 with a static height, width and number of channels.

    Example:

    >>> import keras, keras_vit
    >>> images = keras.random.uniform((2, 32, 48, 3))
    >>> tuple(keras_vit.layers.Patches(16)(images).shape)
    (2, 6, 768)

    Reference: ViT (arXiv:2010.11929) section 3.1, x_p.
    """

    def __init__(self, patch_size: int, **kwargs):
        super().__init__(**kwargs)
        self.patch_size = patch_size

    def _grid(self, input_shape):
        if len(input_shape) != 4 or None in input_shape[1:]:
            raise ValueError(
                "Patches needs images of shape (batch, height, width, channels), all "
                f"but the batch known; received {tuple(input_shape)}."
            )
        return grid_shape(input_shape[1:], self.patch_size)

    def build(self, input_shape):
        self._grid(input_shape)

    def call(self, images):
        gh, gw = self._grid(images.shape)
        p, c = self.patch_size, images.shape[-1]
        patches = ops.reshape(images, (-1, gh, p, gw, p, c))
        patches = ops.transpose(patches, (0, 1, 3, 2, 4, 5))
        return ops.reshape(patches, (-1, gh * gw, p * p * c))

    def compute_output_shape(self, input_shape):
        gh, gw = self._grid(input_shape)
        return (input_shape[0], gh * gw, self.patch_size**2 * input_shape[-1])


@keras.saving.register_keras_serializable(package="keras_vit")
class PatchesToImage(Layer):
    """Layer that assembles images from flat patches: the inverse of `Patches`.

    Input: `(b, gh * gw, p * p * c)`. Output: `(b, gh * p, gw * p, c)`.

    Args:
        patch_size: int, side `p` of a patch in pixels.
        grid_shape: `(gh, gw)`, rows and columns of patches.

    Raises:
        ValueError: the number of patches is not `gh * gw`, or their length is not
            a multiple of `p * p`.

    Example:

    >>> import keras, keras_vit
    >>> images = keras.random.uniform((2, 32, 48, 3))
    >>> patches = keras_vit.layers.Patches(16)(images)
    >>> back = keras_vit.layers.PatchesToImage(16, grid_shape=(2, 3))(patches)
    >>> bool(keras.ops.all(back == images))
    True
    """

    def __init__(self, patch_size: int, grid_shape: tuple[int, int], **kwargs):
        super().__init__(**kwargs)
        self.patch_size = patch_size
        self.grid_shape = tuple(grid_shape)

    def compute_output_shape(self, input_shape):
        (gh, gw), p = self.grid_shape, self.patch_size
        if len(input_shape) != 3 or input_shape[1] != gh * gw or input_shape[2] % (p * p):
            raise ValueError(
                f"PatchesToImage with grid_shape={self.grid_shape} and patch_size={p} "
                f"needs patches of shape (batch, {gh * gw}, {p * p} * channels); "
                f"received {tuple(input_shape)}."
            )
        return (input_shape[0], gh * p, gw * p, input_shape[2] // (p * p))

    def call(self, patches):
        (gh, gw), p = self.grid_shape, self.patch_size
        _, height, width, channels = self.compute_output_shape(patches.shape)
        images = ops.reshape(patches, (-1, gh, gw, p, p, channels))
        images = ops.transpose(images, (0, 1, 3, 2, 4, 5))
        return ops.reshape(images, (-1, height, width, channels))
