"""Conversion of images to overlapping patches."""

import keras
from keras import ops

from keras_vit.kernels import soft_split as kernels
from keras_vit.kernels.switch import fast_form
from keras_vit.layers.base import Layer


@fast_form(kernels.soft_split)
def soft_split(images, kernel_size, stride, padding):
    """Return the overlapping square patches of images.

    Args:
        images: `(b, h, w, c)`.
        kernel_size: int, side `k` of a patch.
        stride: int, distance from one patch to the next.
        padding: int, width of the border of zeros around the image.

    Returns:
        `(b, gh, gw, k * k * c)`, the values of a patch ordered (row, column, channel).
    """
    border = (padding, padding)
    x = ops.pad(images, ((0, 0), border, border, (0, 0)))
    height, width = x.shape[1] - kernel_size + 1, x.shape[2] - kernel_size + 1
    pixels = [
        x[:, row : row + height : stride, column : column + width : stride]
        for row in range(kernel_size)
        for column in range(kernel_size)
    ]
    return ops.concatenate(pixels, axis=-1)


@keras.saving.register_keras_serializable(package="keras_vit")
class SoftSplit(Layer):
    """Layer that cuts images into flat, overlapping square patches.

    Patches are in raster order. Within a patch the values are ordered (row, column,
    channel), as in `Patches`, so that `SoftSplit` followed by a `Dense` layer is a
    convolution. Pixels at the lower and right border that do not fill a stride are
    dropped.

    Input: `(b, h, w, c)`, any float dtype and range; h, w, c known.
    Output: `(b, gh * gw, k * k * c)` with `gh = (h + 2 * padding - k) // stride + 1`.

    Args:
        kernel_size: int, side `k` of a patch in pixels.
        stride: int, pixels from one patch to the next.
        padding: int, rows and columns of zeros on each side.

    Raises:
        ValueError: an argument is out of its range; the input is not of rank 4 with a
            static height, width and channel count; or it is smaller than a patch.

    Example:

    >>> import keras, keras_vit
    >>> images = keras.random.uniform((2, 32, 48, 3))
    >>> split = keras_vit.layers.SoftSplit(kernel_size=7, stride=4, padding=2)
    >>> tuple(split(images).shape)
    (2, 96, 147)

    Reference: T2T-ViT (arXiv:2101.11986) section 3.1, "Soft Split". The original uses
    PyTorch's unfold, which orders the values of a patch (channel, row, column).
    """

    def __init__(self, kernel_size: int, stride: int, padding: int = 0, **kwargs):
        super().__init__(**kwargs)
        for name, value, least in (
            ("kernel_size", kernel_size, 1),
            ("stride", stride, 1),
            ("padding", padding, 0),
        ):
            if not isinstance(value, int) or value < least:
                raise ValueError(
                    f"{name} must be an int, {least} or more (pixels); received "
                    f"{value!r}."
                )
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding

    def grid_shape(self, input_shape: tuple) -> tuple[int, int]:
        """Return the number of rows and columns of patches.

        Args:
            input_shape: `(b, h, w, c)` of the images.

        Returns:
            `(gh, gw)`.
        """
        if len(input_shape) != 4 or None in input_shape[1:]:
            raise ValueError(
                "SoftSplit needs images of shape (batch, height, width, channels), all "
                f"but the batch known; received {tuple(input_shape)}."
            )
        rows, columns = (
            (side + 2 * self.padding - self.kernel_size) // self.stride + 1
            for side in input_shape[1:3]
        )
        if rows < 1 or columns < 1:
            raise ValueError(
                f"Patches of {self.kernel_size}x{self.kernel_size} pixels do not fit "
                f"into images of {tuple(input_shape[1:])} with padding={self.padding}: "
                f"both sides must be {self.kernel_size - 2 * self.padding} or more."
            )
        return rows, columns

    def build(self, input_shape):
        self.grid_shape(input_shape)

    def call(self, images):
        sizes = {"kernel_size": self.kernel_size, "stride": self.stride}
        patches = soft_split(images, **sizes, padding=self.padding)
        _, gh, gw, length = patches.shape
        return ops.reshape(patches, (-1, gh * gw, length))

    def compute_output_shape(self, input_shape):
        gh, gw = self.grid_shape(input_shape)
        return (input_shape[0], gh * gw, self.kernel_size**2 * input_shape[-1])
