"""Keras `.weights.h5` files."""

import collections
import contextlib
import math
import os
from typing import Any

from keras_vit.weights.checks import check_weights
from keras_vit.weights.tensor_file import (
    TensorFile,
    check_regular_file,
    exceeds_budget,
)


def find_datasets(file: Any, size: int) -> dict[str, Any]:
    """Return the datasets of an HDF5 file after checking that they are safe to read.

    A dataset in an HDF5 file can refer to any other file on the disk and return the bytes
    of that file as values. Such files are rejected, as they are by Keras.

    Args:
        file: an open `h5py.File`.
        size: int, size of the file in bytes, which limits the memory that its datasets
            may need.

    Returns:
        Dict from name to `h5py.Dataset`.

    Raises:
        ValueError: if a dataset is stored in another file, is virtual, is incomplete or
            is a link, or if the datasets need too much memory.
    """
    import h5py

    datasets: dict[str, Any] = {}
    groups, seen, needed = [("", file)], set(), 0
    while groups:
        prefix, group = groups.pop()
        if prefix.count("/") > 100:
            raise ValueError("its groups are nested more than 100 deep")
        for key in group:
            name = prefix + key
            if type(group.get(key, getlink=True)) is not h5py.HardLink:
                raise ValueError(f"{name} is a link; links are not followed")
            node = group[key]
            # Hard links can form a cycle.
            address = h5py.h5o.get_info(node.id).addr
            if address in seen:
                raise ValueError(f"{name} also has another name in the file")
            seen.add(address)
            if isinstance(node, h5py.Group):
                groups.append((f"{name}/", node))
                continue
            _check_dataset(name, node)
            datasets[name] = node
            # HDF5 reads whole chunks, which may be larger than the dataset.
            chunk = math.prod(node.chunks or ()) * node.dtype.itemsize
            needed += max(node.size * max(node.dtype.itemsize, 4), chunk)
    reason = exceeds_budget(needed, size)
    if reason:
        raise ValueError(reason)
    return datasets


def _check_dataset(name, node):
    """Raise a `ValueError` unless a dataset holds numbers that are all in this file."""
    import h5py

    if not isinstance(node, h5py.Dataset) or node.shape is None:
        raise ValueError(f"{name} is not an array")
    if node.external:
        raise ValueError(
            f"{name} is stored in other files, such as {node.external[0][0]}"
        )
    if node.is_virtual:
        raise ValueError(f"{name} is a virtual dataset, a view of others")
    if node.dtype.hasobject or node.dtype.kind not in "fiubV":
        raise ValueError(f"{name} holds {node.dtype}, not numbers")
    # HDF5 returns a fill value for data that was never written.
    if node.chunks is None:
        complete = node.size == 0 or node.id.get_storage_size() > 0
    else:
        sides = zip(node.shape, node.chunks, strict=True)
        chunks = math.prod(-(-side // chunk) for side, chunk in sides)
        complete = node.id.get_num_chunks() >= chunks
    if not complete:
        raise ValueError(f"{name} has a shape, {node.shape}, but no values")


class H5File(TensorFile):
    """Reader of one or more `.weights.h5` files that skips optimizer variables.

    Args:
        paths: dict from a prefix to the path of a file; the prefix is prepended to the
            names of all tensors in that file.

    Raises:
        ValueError: if a file is damaged, holds anything other than floats, or refers to
            other files.
    """

    format = ".weights.h5"

    def __init__(self, paths):
        super().__init__(next(iter(paths.values())))
        self._paths = paths
        for path in paths.values():
            check_regular_file(path)
        self._stored: dict[str, tuple[str, str]] = {}
        for prefix, path in paths.items():
            with self._open(path) as datasets:
                for name, node in datasets.items():
                    # Skip the variables of optimizers and the seeds of dropout layers,
                    # which are not weights and may be integers.
                    if name.startswith("optimizer/") or "/seed_generator/" in name:
                        continue
                    self.check_dtype(name, _dtype_name(node))
                    self.shapes[prefix + name] = tuple(node.shape)
                    self._stored[prefix + name] = path, name
        self.check_budget(paths.values())

    @contextlib.contextmanager
    def _open(self, path):
        """Open a file and yield a dict of its datasets."""
        import h5py

        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(h5py.File(path, "r"))
                datasets = find_datasets(file, os.path.getsize(path))
            except Exception as error:
                # For damaged files, h5py raises many different exceptions.
                raise self.unreadable(_first_line(error)) from None
            yield datasets

    @contextlib.contextmanager
    def reader(self):
        with contextlib.ExitStack() as stack:
            files = {
                path: stack.enter_context(self._open(path))
                for path in self._paths.values()
            }

            def read(name):
                path, inner = self._stored[name]
                node = files[path][inner]
                try:
                    array = node[()]
                except Exception as error:
                    raise self.unreadable(f"{name}: {_first_line(error)}") from None
                if _dtype_name(node) == "bfloat16":
                    import ml_dtypes

                    array = array.view(ml_dtypes.bfloat16)
                return array.astype("float32", copy=False)

            yield read


def _dtype_name(node):
    """Return the name of a dataset's dtype.

    HDF5 has no bfloat16. Keras stores such values as raw bytes and states the dtype in an
    attribute.
    """
    if node.dtype.kind == "V" and node.attrs.get("dtype") == "bfloat16":
        return "bfloat16"
    return node.dtype.newbyteorder("=").name


def _first_line(error):
    return f"{error}".strip().split("\n")[0] or type(error).__name__


def load_own_weights(model: Any, path: str | os.PathLike, check_finite: bool) -> None:
    """Load a `.weights.h5` file into a model and require that every weight matches.

    `model.load_weights` alone would silently ignore additional weights in the file.

    Args:
        model: a keras_vit model.
        path: a `.weights.h5` file that `save_weights` of such a model wrote.
        check_finite: bool, whether to raise an error if a weight is NaN or infinite.

    Raises:
        ValueError: if the file is damaged, its weights do not match those of the model,
            or some of them are not finite.
    """
    path = os.fspath(path)
    file = H5File({"": path})
    # In the file, Keras names a layer by its class and its index among its siblings, and
    # `load_weights` raises an error if one of these names is missing. It ignores weights
    # with other names, which the number of weights of each shape reveals.
    has = collections.Counter(file.shapes.values())
    needs = collections.Counter(tuple(weight.shape) for weight in model.weights)
    if has != needs:
        raise ValueError(
            f"The weights in {path} do not match the model. Shapes and their numbers: "
            f"only in the file {dict(has - needs)}, only in the model "
            f"{dict(needs - has)}. Build the model that was saved, or save it as .keras, "
            "which includes the configuration."
        )
    model.load_weights(path)
    if check_finite:
        check_weights(path, model.weights_by_path())
