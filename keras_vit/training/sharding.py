"""Layouts of a model's weights over a mesh of devices, under JAX."""

import math
import re
from collections.abc import Iterable
from typing import Any

import keras

from keras_vit.text_table import aligned

# Names of the axes of a mesh. Batches are split over the first, heads and hidden units of
# MLPs over the second.
DATA, MODEL = "data", "model"

# Kernels whose outputs are heads or hidden units, and their biases.
_OUTPUTS = r"(?:.*/)?(?:qkv|query|key_value|expand|pre_logits|classifier)"
# Kernels whose inputs are heads or hidden units. The projection of patches has none.
_INPUTS = r"(?:.*/)?(?:(?<!patch_encoder/)projection|contract)"


def layout_map(mesh: keras.distribution.DeviceMesh) -> keras.distribution.LayoutMap:
    """Return the layouts of the weights of every model of keras_vit over a mesh.

    In attention and MLPs, the first matrix is split by columns over the axis `model` and
    the second one by rows, so that every device computes some of the heads and hidden
    units, and a block sums over devices twice. The head is split by classes. Everything
    else is whole on each device. The outputs of blocks are split by images over `data`.

    Args:
        mesh: `keras.distribution.DeviceMesh` with the axes `data` and, if there is one,
            `model`.

    Returns:
        A `keras.distribution.LayoutMap`, for `ModelParallel`.

    Raises:
        ValueError: the mesh has no axis `data`, or an axis with another name.

    Example:

    >>> import keras
    >>> from keras_vit.training import layout_map
    >>> mesh = keras.distribution.DeviceMesh((1, 1), ("data", "model"), ["cpu:0"])
    >>> layout_map(mesh)["block_0/mlp/contract/kernel"].axes
    ('model', None)

    Reference: Megatron-LM (arXiv:1909.08053) section 3.
    """
    names = tuple(mesh.axis_names)
    if names not in ((DATA,), (DATA, MODEL)):
        raise ValueError(
            f"The axes of the mesh must be ('data',) or ('data', 'model'); are {names!r}."
        )
    layouts = keras.distribution.LayoutMap(mesh)
    if MODEL in names:
        layouts[f"{_OUTPUTS}/kernel"] = (None, MODEL)
        layouts[f"{_OUTPUTS}/bias"] = (MODEL,)
        layouts[f"{_INPUTS}/kernel"] = (MODEL, None)
    # Without this, XLA may split activations like the weights instead of the weights
    # like the activations.
    layouts[r"(?:.*/)?block_\d+/output"] = (DATA,)
    return layouts


class ModelParallel(keras.distribution.ModelParallel):
    """Keras's ModelParallel that fits the layouts to the shapes of the weights.

    A dimension that an axis of the mesh does not divide, such as 10 classes on 4 devices,
    is not split over it: JAX would raise an error.

    With `fully_sharded`, every weight is also split over `data`, along its largest
    dimension that is still whole and that the number of devices divides, and so are the
    variables of the optimizer and the averages of the weights. Each device then stores
    its part, and gathers the whole weights of a layer to compute it. XLA may keep them
    until the backward pass.

    Args:
        layout_map: as returned by `layout_map`.
        fully_sharded: bool, whether to split the weights over the axis `data` too.
        auto_shard_dataset: as for `keras.distribution.ModelParallel`.

    Example:

    >>> import keras
    >>> from keras_vit.training import ModelParallel, layout_map
    >>> mesh = keras.distribution.DeviceMesh((1,), ("data",), ["cpu:0"])
    >>> distribution = ModelParallel(layout_map=layout_map(mesh), fully_sharded=True)
    >>> distribution.batch_dim_name
    'data'

    Reference: ZeRO (arXiv:1910.02054), stage 3.
    """

    def __init__(
        self,
        *,
        layout_map: keras.distribution.LayoutMap,
        fully_sharded: bool = False,
        auto_shard_dataset: bool = True,
    ):
        super().__init__(
            layout_map=layout_map,
            batch_dim_name=DATA,
            auto_shard_dataset=auto_shard_dataset,
        )
        self.fully_sharded = fully_sharded

    def get_variable_layout(self, variable):
        layout = super().get_variable_layout(variable)
        if not isinstance(layout, keras.distribution.TensorLayout):
            return layout
        axes = self._fitted(layout.axes, tuple(variable.shape))
        return keras.distribution.TensorLayout(axes, self.device_mesh)

    def _fitted(self, axes, shape):
        mesh = self.device_mesh
        sizes = dict(zip(mesh.axis_names, mesh.shape, strict=True))
        # An axis of one device splits nothing, and would keep `data` from its dimension.
        axes = [
            axis if sizes.get(axis, 1) > 1 and size % sizes[axis] == 0 else None
            for axis, size in zip(axes, shape, strict=True)
        ]
        if self.fully_sharded and DATA not in axes:
            whole = [i for i, axis in enumerate(axes) if axis is None]
            whole = [i for i in whole if shape[i] and shape[i] % sizes[DATA] == 0]
            if whole:
                axes[max(whole, key=lambda i: shape[i])] = DATA
        return tuple(axes)


def layout_table(variables: Iterable[keras.Variable]) -> str:
    """Return the layout of variables as a table, with their bytes on each device.

    Rows of blocks that differ in their number only are one row.

    Args:
        variables: variables of a model or an optimizer, built under a distribution.

    Returns:
        Text with one row for each kind of variable: its path, how many there are, its
        shape, the axis of the mesh that each dimension is split over, and the bytes of
        all of them, in total and on one device.

    Example:

    >>> import keras_vit
    >>> from keras_vit.training import layout_table
    >>> model = keras_vit.ViT(
    ...     (16, 16, 3), patch_size=8, hidden_dim=8, num_layers=2, num_heads=2,
    ...     mlp_dim=16, include_top=False)
    >>> print(layout_table(model.weights).splitlines()[-1].split())
    ['all', '30', '11,232', '11,232']
    """
    rows: dict[tuple, list[int]] = {}
    for variable in variables:
        path = re.sub(r"(?<=block_)\d+", "*", variable.path)
        layout = getattr(variable, "_layout", None)
        axes = getattr(layout, "axes", (None,) * len(variable.shape))
        key = path, tuple(variable.shape), axes
        total, part = sizes(variable)
        row = rows.get(key, [0, 0, 0])
        rows[key] = [a + b for a, b in zip(row, (1, total, part), strict=True)]
    texts = [("variable", "count", "shape", "layout", "bytes", "on each device")]
    for (path, shape, axes), (count, total, part) in rows.items():
        layout = ", ".join(axis or "-" for axis in axes)
        size = " x ".join(map(str, shape))
        texts.append((path, str(count), size, layout, f"{total:,}", f"{part:,}"))
    sums = [sum(row[i] for row in rows.values()) for i in range(3)]
    texts.append(("all", str(sums[0]), "", "", f"{sums[1]:,}", f"{sums[2]:,}"))
    return "\n".join(aligned(texts, right=(1, 4, 5)))


def sizes(variable: keras.Variable) -> tuple[int, int]:
    """Return the bytes of a variable, in total and on one device.

    Args:
        variable: a variable of a model or an optimizer.
    """
    value: Any = variable.value
    item = int(keras.ops.convert_to_numpy(keras.ops.zeros((), value.dtype)).itemsize)
    whole = math.prod(variable.shape) * item
    sharding = getattr(value, "sharding", None)
    if sharding is None:
        return whole, whole
    return whole, math.prod(sharding.shard_shape(value.shape)) * item
