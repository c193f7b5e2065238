"""Keras's `.weights.h5` files."""

import contextlib

from keras_vit.weights.tensor_file import TensorFile


class H5File(TensorFile):
    """One or more `.weights.h5` files; of optimizers' variables nothing is read.

    Args:
        paths: dict from a prefix for the names in a file to its path.

    Raises:
        ValueError: a file is damaged, or holds something other than floats.
    """

    format = ".weights.h5"

    def __init__(self, paths):
        super().__init__(next(iter(paths.values())))
        self._paths = paths
        with self._open() as files:
            for prefix, file in files.items():

                def visit(name, node, prefix=prefix):
                    if hasattr(node, "shape") and not name.startswith("optimizer/"):
                        self.check_dtype(name, node.dtype)
                        self.shapes[prefix + name] = tuple(node.shape)

                file.visititems(visit)

    @contextlib.contextmanager
    def _open(self):
        import h5py

        with contextlib.ExitStack() as stack:
            try:
                yield {
                    prefix: stack.enter_context(h5py.File(path, "r"))
                    for prefix, path in self._paths.items()
                }
            except (OSError, KeyError, RuntimeError) as error:
                raise self.unreadable(error) from None

    @contextlib.contextmanager
    def reader(self):
        with self._open() as files:

            def read(name):
                for prefix, file in files.items():
                    inner = name.removeprefix(prefix)
                    if name.startswith(prefix) and inner in file:
                        return file[inner][()].astype("float32", copy=False)
                raise KeyError(name)

            yield read
