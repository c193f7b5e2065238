"""`.safetensors` files, as timm and transformers write them."""

import contextlib
import json
import os

from keras_vit.weights.tensor_file import TensorFile

_DTYPES = {"F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16"}


class SafetensorsFile(TensorFile):
    """A `.safetensors` file, or the index (`.safetensors.index.json`) of several.

    Raises:
        ValueError: the file is damaged, or holds something other than floats.
    """

    format = ".safetensors"

    def __init__(self, path):
        super().__init__(path)
        files = [self.path]
        if self.path.endswith(".json"):
            try:
                with open(self.path) as file:
                    names = json.load(file)["weight_map"].values()
                directory = os.path.dirname(self.path)
                # Names, not paths: an index cannot point out of its directory.
                files = [os.path.join(directory, os.path.basename(n)) for n in set(names)]
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise self.unreadable(f"its index: {error}") from None
        self._file_of = {}
        for part in sorted(files):
            with self._open(part) as tensors:
                for name in tensors.keys():  # noqa: SIM118 (no dict)
                    view = tensors.get_slice(name)
                    self.check_dtype(
                        name, _DTYPES.get(view.get_dtype(), view.get_dtype())
                    )
                    self.shapes[name] = tuple(view.get_shape())
                    self._file_of[name] = part

    @contextlib.contextmanager
    def _open(self, path):
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "numpy") as tensors:
                yield tensors
        except (SafetensorError, OSError) as error:
            raise self.unreadable(error) from None

    @contextlib.contextmanager
    def reader(self):
        def read(name):
            # Opened for each tensor: as long as a file is open, what was read of it
            # stays in memory.
            with self._open(self._file_of[name]) as tensors:
                return tensors.get_tensor(name).astype("float32", copy=False)

        yield read
