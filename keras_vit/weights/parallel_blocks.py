"""Blocks of timm's `ParallelScalingBlock`, under the names of its other blocks."""

import contextlib
import re

import numpy as np

from keras_vit.weights.tensor_file import TensorFile

SIGN = "blocks.0.in_proj.weight"
_RENAMED = {
    "in_norm.weight": "norm1.weight",
    "in_norm.bias": "norm1.bias",
    "mlp_bias": "mlp.fc1.bias",
    "q_norm.weight": "attn.q_norm.weight",
    "q_norm.bias": "attn.q_norm.bias",
    "k_norm.weight": "attn.k_norm.weight",
    "k_norm.bias": "attn.k_norm.bias",
    "attn_out_proj.weight": "attn.proj.weight",
    "attn_out_proj.bias": "attn.proj.bias",
    "mlp_out_proj.weight": "mlp.fc2.weight",
    "mlp_out_proj.bias": "mlp.fc2.bias",
    "ls.gamma": "ls1.gamma",
}


class ParallelBlocks(TensorFile):
    """View of a file in which the blocks have timm's usual names.

    Args:
        file: the opened file.
    """

    def __init__(self, file: TensorFile):
        super().__init__(file.path)
        self.format = file.format  # type: ignore[misc]
        self._file = file
        self._parts: dict[str, tuple[str, slice]] = {}
        width = file.shapes[SIGN][-1]
        for stored, shape in file.shapes.items():
            self._parts[stored] = stored, slice(None)
            self.shapes[stored] = shape
            if not (block := re.match(r"blocks\.\d+\.", stored)):
                continue
            layer = stored.removeprefix(block[0])
            if layer in _RENAMED:
                self._rename(stored, {block[0] + _RENAMED[layer]: shape[0]})
            elif layer.startswith("in_proj.") and shape[0] > 3 * width:
                leaf = layer.removeprefix("in_proj.")
                hidden = f"{block[0]}mlp.fc1.{leaf}", shape[0] - 3 * width
                qkv = f"{block[0]}attn.qkv.{leaf}", 3 * width
                self._rename(stored, dict([hidden, qkv]))

    def _rename(self, stored, sizes):
        """Replace a tensor by consecutive parts of its rows."""
        del self._parts[stored]
        _, *others = self.shapes.pop(stored)
        start = 0
        for name, size in sizes.items():
            self._parts[name] = stored, slice(start, start + size)
            self.shapes[name] = (size, *others)
            start += size

    @contextlib.contextmanager
    def reader(self):
        with self._file.reader() as read:

            def read_part(name):
                stored, rows = self._parts[name]
                return read(stored)[rows]

            yield read_part


def join(tensors: dict[str, np.ndarray], num_layers: int) -> dict[str, np.ndarray]:
    """Return tensors as `ParallelScalingBlock` stores them, the inverse of the view.

    Args:
        tensors: dict from timm's usual names to arrays.
        num_layers: int, number of blocks.
    """
    joined = dict(tensors)
    for index in range(num_layers):
        block = f"blocks.{index}."
        for leaf in ("weight", "bias"):
            parts = [f"{block}{layer}.{leaf}" for layer in ("mlp.fc1", "attn.qkv")]
            if all(part in joined for part in parts):
                arrays = [joined.pop(part) for part in parts]
                joined[f"{block}in_proj.{leaf}"] = np.concatenate(arrays)
        for stored, name in _RENAMED.items():
            if block + name in joined:
                joined[block + stored] = joined.pop(block + name)
    return joined
