"""NumPy `.npz` files, the format of Google's Flax checkpoints."""

import contextlib
import math

import numpy as np

from keras_vit.weights.archive import open_archive
from keras_vit.weights.tensor_file import TensorFile


class NpzFile(TensorFile):
    """Reader of `.npz` files that never unpickles anything.

    NumPy stores bfloat16 arrays as untyped pairs of bytes; the reader restores them.

    Args:
        path: path of the file.

    Raises:
        ValueError: if the file is damaged or incomplete, holds anything other than arrays
            of floats, or has two arrays with the same name.
    """

    format = ".npz"

    def __init__(self, path):
        super().__init__(path)
        self._members: dict[str, str] = {}
        # The sources check the dtypes: only they can tell the weights from the integer
        # counters that training checkpoints also hold.
        with self._open() as archive:
            for member in archive.infolist():
                try:
                    with archive.open(member) as file:
                        shape, dtype = _read_header(file)
                        size = file.tell() + math.prod(shape) * dtype.itemsize
                except Exception as error:
                    # For damaged files, zipfile, zlib and NumPy's header parser raise
                    # many different exceptions.
                    raise self.unreadable(f"{member.filename}: {error}") from None
                name = member.filename.removesuffix(".npy")
                if name in self.shapes:
                    raise self.unreadable(f"it contains {name} twice")
                if dtype.hasobject:
                    self.check_dtype(member.filename, dtype)
                if size != member.file_size:
                    raise self.unreadable(
                        f"{name} should have {size} bytes and has {member.file_size}"
                    )
                self.shapes[name] = shape
                self.dtypes[name] = _dtype_name(dtype)
                self._members[name] = member.filename
        self.check_budget()

    def _open(self):
        try:
            return open_archive(self.path)
        except ValueError as error:
            raise self.unreadable(error) from None

    @contextlib.contextmanager
    def reader(self):
        with self._open() as archive:

            def read(name):
                try:
                    with archive.open(self._members[name]) as file:
                        array = np.lib.format.read_array(file, allow_pickle=False)
                except Exception as error:
                    raise self.unreadable(f"{name}: {error}") from None
                if array.dtype.kind == "V":
                    import ml_dtypes

                    array = array.view(ml_dtypes.bfloat16)
                return array.astype("float32", copy=False)

            yield read


def _read_header(file):
    """Return the shape and dtype in the header of an `.npy` file."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"unknown version {version} of the array format")
    if any(size < 0 for size in shape):
        raise ValueError(f"invalid shape {shape}")
    return shape, dtype


def _dtype_name(dtype):
    return "bfloat16" if dtype == np.dtype("V2") else dtype.newbyteorder("=").name
