"""Image to overlapping patches."""

import functools

import keras
from keras import ops

from keras_vit.layers.gradient import hand_written_gradient


def _pad_axis(x, axis, before, after):
    if not before and not after:
        return x
    padding = [(0, 0)] * len(x.shape)
    padding[axis] = (before, after)
    return ops.pad(x, padding)


def _slice_axis(x, axis, start, stop):
    return x[(*[slice(None)] * axis, slice(start, stop))]


def _resize_axis(x, axis, length):
    """Cuts the axis, or pads it with zeros, at its end."""
    size = x.shape[axis]
    if size < length:
        return _pad_axis(x, axis, 0, length - size)
    return x if size == length else _slice_axis(x, axis, 0, length)


def _pieces(kernel_size, stride):
    """What a window takes of the blocks of `stride` that it lies over: index, number."""
    starts = range(0, kernel_size, stride)
    return [(i, min(stride, kernel_size - i * stride)) for i in range(len(starts))]


def _unfold_axis(x, axis, kernel_size, stride, number):
    """`(..., length, ...)` to `(..., number, kernel_size, ...)`: windows of the axis.

    By blocks of `stride`, of which a window has one or two or a few: as many slices, and
    none of them strided.
    """
    pieces = _pieces(kernel_size, stride)
    blocks = number - 1 + len(pieces)
    x = _resize_axis(x, axis, blocks * stride)
    x = ops.reshape(x, (-1, *x.shape[1:axis], blocks, stride, *x.shape[axis + 1 :]))
    parts = [
        _slice_axis(_slice_axis(x, axis, i, i + number), axis + 1, 0, taken)
        for i, taken in pieces
    ]
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=axis + 1)


def _fold_axis(x, axis, stride, length):
    """`(..., number, kernel_size, ...)` to `(..., length, ...)`: sums of windows.

    The transpose of `_unfold_axis`.
    """
    number, kernel_size = x.shape[axis : axis + 2]
    pieces = _pieces(kernel_size, stride)
    blocks = number - 1 + len(pieces)
    total = None
    for i, taken in pieces:
        part = _slice_axis(x, axis + 1, i * stride, i * stride + taken)
        part = _pad_axis(part, axis, i, blocks - number - i)
        part = _pad_axis(part, axis + 1, 0, stride - taken)
        total = part if total is None else total + part
    shape = (-1, *x.shape[1:axis], blocks * stride, *x.shape[axis + 2 :])
    total = ops.reshape(total, shape)
    return _resize_axis(total, axis, length)


@functools.cache
def soft_split(kernel_size, stride, padding):
    """Overlapping patches, as a function.

    Args:
        kernel_size: int, side of a patch.
        stride: int, from one patch to the next.
        padding: int, zeros around the image.

    Returns:
        A function of `images (b, h, w, c)` that gives `(b, gh, gw, k * k * c)`, entries
        of a patch in the order (row, column, channel).
    """

    def grid(height, width):
        return [(side - kernel_size) // stride + 1 for side in (height, width)]

    def unfold(images):
        x = _pad_axis(_pad_axis(images, 1, padding, padding), 2, padding, padding)
        _, height, width, channels = x.shape
        gh, gw = grid(height, width)
        x = _unfold_axis(x, 2, kernel_size, stride, gw)
        # No tensor has more than 5 axes, which is what LiteRT can slice.
        x = ops.reshape(x, (-1, height, gw, kernel_size * channels))
        x = ops.transpose(_unfold_axis(x, 1, kernel_size, stride, gh), (0, 1, 3, 2, 4))
        return ops.reshape(x, (-1, gh, gw, kernel_size**2 * channels))

    # Automatic gradients of slices fill a whole image with zeros for each of them.
    @hand_written_gradient(unfold)
    def split(images):
        _, height, width, channels = images.shape

        def fold(upstream):
            _, gh, gw, _ = upstream.shape
            row = kernel_size * channels
            x = ops.reshape(upstream, (-1, gh, gw, kernel_size, row))
            x = ops.transpose(x, (0, 1, 3, 2, 4))
            x = _fold_axis(x, 1, stride, height + 2 * padding)
            x = ops.reshape(x, (-1, x.shape[1], gw, kernel_size, channels))
            x = _fold_axis(x, 2, stride, width + 2 * padding)
            return (x[:, padding : padding + height, padding : padding + width],)

        return unfold(images), fold

    return split


@keras.saving.register_keras_serializable(package="keras_vit")
class SoftSplit(keras.layers.Layer):
    """Cuts images into flat, overlapping square patches.

    Patches come in raster order. Within a patch the values are ordered (row, column,
    channel), as in `Patches`: so `SoftSplit` and a `Dense` layer are a convolution.
    What is left at the lower and right border, less than a stride, is in no patch.

    Slices, concatenations and one transposition, which every format of graphs has.

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

    Source: T2T-ViT (arXiv:2101.11986) section 3.1, "Soft Split". PyTorch's unfold, which
    the original has, orders a patch (channel, row, column).
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
        """Rows and columns of patches.

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
        self.built = True

    def call(self, images):
        patches = soft_split(self.kernel_size, self.stride, self.padding)(images)
        _, gh, gw, length = patches.shape
        return ops.reshape(patches, (-1, gh * gw, length))

    def compute_output_shape(self, input_shape):
        gh, gw = self.grid_shape(input_shape)
        return (input_shape[0], gh * gw, self.kernel_size**2 * input_shape[-1])

    def get_config(self):
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "stride": self.stride,
            "padding": self.padding,
        }
