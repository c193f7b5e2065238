"""Keras's `.weights.h5` files."""

import collections
import contextlib
import os
from typing import Any

from keras_vit.weights.strict import check_weights
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


def load_own_weights(model: Any, path: str | os.PathLike, check_finite: bool) -> None:
    """`model.load_weights`, which alone would leave what is too much in the file.

    Args:
        model: a keras_vit model of which `path` holds the weights.
        path: a `.weights.h5` file that `save_weights` wrote.
        check_finite: bool, whether NaN and infinity are errors.

    Raises:
        ValueError: the file is damaged, has other weights than the model, or some that
            are not finite.
    """
    path = os.fspath(path)
    file = H5File({"": path})
    # Keras's names of layers depend on what is beside them: shapes have to do.
    has = collections.Counter(file.shapes.values())
    needs = collections.Counter(tuple(weight.shape) for weight in model.weights)
    if has != needs:
        raise ValueError(
            f"{path} has other weights than the model. Shapes, and how often: too many "
            f"in the file {dict(has - needs)}, missing in it {dict(needs - has)}. Build "
            "the model that was saved; .keras files have it in them."
        )
    model.load_weights(path)
    if check_finite:
        check_weights(path, model.weights_by_path())
