"""Overlapping patches by blocks of a stride, with a hand-written gradient.

Plain formula: `keras_vit.layers.soft_split`.
"""

from keras import ops

from keras_vit.kernels.gradient import hand_written_gradient


def _pad_axis(x, axis, before, after):
    if not before and not after:
        return x
    padding = [(0, 0)] * len(x.shape)
    padding[axis] = (before, after)
    return ops.pad(x, padding)


def _slice_axis(x, axis, start, stop):
    return x[(*[slice(None)] * axis, slice(start, stop))]


def _resize_axis(x, axis, length):
    """Cut the axis, or pad it with zeros, at its end."""
    size = x.shape[axis]
    if size < length:
        return _pad_axis(x, axis, 0, length - size)
    return x if size == length else _slice_axis(x, axis, 0, length)


def _pieces(kernel_size, stride):
    """List the blocks of `stride` entries that a window covers: index, entries taken."""
    starts = range(0, kernel_size, stride)
    return [(i, min(stride, kernel_size - i * stride)) for i in range(len(starts))]


def _unfold_axis(x, axis, kernel_size, stride, number):
    """Cut windows: `(..., length, ...)` to `(..., number, kernel_size, ...)`.

    The axis is cut into blocks of `stride`. A window covers a few consecutive blocks, so
    that a few slices without steps are enough.
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
    """Sum windows: `(..., number, kernel_size, ...)` to `(..., length, ...)`.

    This is the transpose of `_unfold_axis`.
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


def _unfold(images, kernel_size, stride, padding):
    x = _pad_axis(_pad_axis(images, 1, padding, padding), 2, padding, padding)
    _, height, width, channels = x.shape
    gh, gw = ((side - kernel_size) // stride + 1 for side in (height, width))
    x = _unfold_axis(x, 2, kernel_size, stride, gw)
    # No tensor has more than 5 axes: LiteRT cannot slice more.
    x = ops.reshape(x, (-1, height, gw, kernel_size * channels))
    x = ops.transpose(_unfold_axis(x, 1, kernel_size, stride, gh), (0, 1, 3, 2, 4))
    return ops.reshape(x, (-1, gh, gw, kernel_size**2 * channels))


@hand_written_gradient(torch=_unfold)
def soft_split(images, kernel_size, stride, padding):
    """Return overlapping patches, `(b, h, w, c)` to `(b, gh, gw, k * k * c)`.

    The automatic gradient of a slice fills a whole image with zeros, once for each slice.
    """
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

    return _unfold(images, kernel_size, stride, padding), fold
