"""Sharded PyTorch checkpoints, and checkpoints whose names have a wrapper's prefix."""

import contextlib
import math

import numpy as np

from keras_vit.weights.tensor_file import INDICES, TensorFile
from keras_vit.weights.torch_file import TorchFile


class Unwrapped(TensorFile):
    """View of a file that removes a prefix from the names of its tensors.

    `DistributedDataParallel`, `torch.compile`, Lightning and classes that hold a network
    as an attribute add a prefix to every name, such as `module.`, `_orig_mod.` or
    `model.`. Tensors without the prefix are left out.

    Args:
        file: the opened file.
        prefix: str, the prefix, including the final dot.
    """

    def __init__(self, file: TensorFile, prefix: str):
        super().__init__(file.path)
        self.format = file.format  # type: ignore[misc]
        self._file, self._prefix = file, prefix
        self.shapes = {
            name.removeprefix(prefix): shape
            for name, shape in file.shapes.items()
            if name.startswith(prefix)
        }
        self.dtypes = {
            name.removeprefix(prefix): dtype
            for name, dtype in file.dtypes.items()
            if name.startswith(prefix)
        }

    @contextlib.contextmanager
    def reader(self):
        with self._file.reader() as read:
            yield lambda name: read(self._prefix + name)


class TorchShards(TensorFile):
    """Reader of the `.bin` files that a `pytorch_model.bin.index.json` lists.

    Args:
        path: path of the index.

    Raises:
        ValueError: if the index or a file is damaged, or if they do not match.
    """

    format = ".bin.index.json"

    def __init__(self, path):
        super().__init__(path)
        names = self.read_index()
        self._files = []
        for shard_path in sorted(set(names.values())):
            self._files.append(TorchFile(shard_path))
            self.shapes |= self._files[-1].shapes
            self.dtypes |= self._files[-1].dtypes
        differing = sorted({n for n in names if not n.endswith(INDICES)} ^ {*self.shapes})
        if differing or len(self.shapes) != sum(len(f.shapes) for f in self._files):
            raise self.unreadable(
                "its index and its files have different tensors: "
                f"{', '.join(differing[:5]) or 'some are in two files'}"
            )

    @contextlib.contextmanager
    def reader(self):
        with contextlib.ExitStack() as stack:
            readers = [stack.enter_context(file.reader()) for file in self._files]

            def read(name):
                for file, reader in zip(self._files, readers, strict=True):
                    if name in file.shapes:
                        return reader(name)
                raise KeyError(name)

            yield read


class Split(TensorFile):
    """View of a file in which packed tensors are split along their first axis.

    Args:
        file: the opened file.
        splits: dict from the ending of a packed tensor's name to a dict from the endings
            of its parts to their relative sizes.
    """

    def __init__(self, file: TensorFile, splits: dict[str, dict[str, int]]):
        super().__init__(file.path)
        self.format = file.format  # type: ignore[misc]
        self._file = file
        self._parts: dict[str, tuple[str, slice]] = {}
        for name, shape in file.shapes.items():
            ending = next((e for e in splits if f".{name}".endswith(f".{e}")), None)
            total = sum(splits[ending].values()) if ending else 0
            if ending is None or not shape or shape[0] % total:
                self.shapes[name] = shape
                continue
            start, unit = 0, shape[0] // total
            for part, size in splits[ending].items():
                rows = slice(start, start + size * unit)
                part = name.removesuffix(ending) + part
                self._parts[part] = name, rows
                self.shapes[part] = (size * unit, *shape[1:])
                start = rows.stop

    @contextlib.contextmanager
    def reader(self):
        with self._file.reader() as read:

            def read_part(name):
                whole, rows = self._parts.get(name, (name, slice(None)))
                return read(whole)[rows]

            yield read_part


def join(
    tensors: dict[str, np.ndarray], splits: dict[str, dict[str, int]]
) -> dict[str, np.ndarray]:
    """Return tensors whose parts are packed, the inverse of `Split`.

    Args:
        tensors: dict from name to array.
        splits: dict, as for `Split`.
    """
    joined = dict(tensors)
    for packed, parts in splits.items():
        first = next(iter(parts))
        for name in tensors:
            if f".{name}".endswith(f".{first}"):
                prefix = name.removesuffix(first)
                arrays = [joined.pop(prefix + part) for part in parts]
                joined[prefix + packed] = np.concatenate(arrays)
    return joined


class FlatPatches(TensorFile):
    """View of a file in which a matrix for flat patches is the kernel of a `Conv2d`.

    A file that stores a kernel is not changed.

    Args:
        file: the opened file.
        name: str, name of the matrix, of shape `(width, rows * columns * channels)`.
        channels: int, number of channels of the images.

    Raises:
        ValueError: if the patches are not squares.
    """

    def __init__(self, file: TensorFile, name: str, channels: int):
        super().__init__(file.path)
        self.format = file.format  # type: ignore[misc]
        self._file, self._name = file, name
        self.shapes = dict(file.shapes)
        shape = file.shapes[name]
        if len(shape) != 2:
            return
        side = math.isqrt(shape[1] // channels)
        if side**2 * channels != shape[1]:
            raise ValueError(
                f"{name} in {self.path} is for patches of {shape[1]} values, which are "
                f"not squares of {channels} channels. Put the network's config.json with "
                "the number of channels beside the file."
            )
        self.shapes[name] = (shape[0], channels, side, side)

    @contextlib.contextmanager
    def reader(self):
        with self._file.reader() as read:

            def read_kernel(name):
                array = read(name)
                if name != self._name or array.ndim != 2:
                    return array
                width, channels, side, _ = self.shapes[name]
                array = array.reshape(width, side, side, channels)
                return array.transpose(0, 3, 1, 2)

            yield read_kernel


def flatten_patches(kernel: np.ndarray) -> np.ndarray:
    """Return the kernel of a `Conv2d` as a matrix, the inverse of `FlatPatches`.

    Args:
        kernel: array `(width, channels, rows, columns)`.
    """
    return np.ascontiguousarray(kernel.transpose(0, 2, 3, 1).reshape(len(kernel), -1))
