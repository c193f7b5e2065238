"""`.safetensors` files, the format of timm and transformers."""

import contextlib
import os

from keras_vit.weights.tensor_file import (
    INDICES,
    LARGEST_JSON,
    TensorFile,
    check_regular_file,
)

# Entry of the metadata of files with LoRA updates, which `keras_vit.lora.save` writes.
LORA = "keras_vit.lora"

_DTYPES = {"F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16"}


class SafetensorsFile(TensorFile):
    """Reader of a `.safetensors` file, or of several files listed in an index.

    Args:
        path: path of the file, or of the index (`.safetensors.index.json`).

    Attributes:
        metadata: dict of the texts in the header of the file.

    Raises:
        ValueError: if a file is damaged, or if the index does not match its files or
            names files in other directories.
    """

    format = ".safetensors"

    def __init__(self, path):
        super().__init__(path)
        index = self.read_index() if self.path.endswith(".json") else None
        files = [self.path] if index is None else sorted(set(index.values()))
        self._file_of: dict[str, str] = {}
        self.metadata: dict[str, str] = {}
        for part in files:
            self._read_header(part)
        if index is not None and index != self._file_of:
            wrong = sorted(index.items() ^ self._file_of.items())
            raise self.unreadable(f"its index and its files disagree about {wrong[0][0]}")
        self.check_budget(files)

    def _read_header(self, part):
        """Add the names and shapes of the tensors in one file."""
        check_regular_file(part)
        with open(part, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > min(LARGEST_JSON, os.path.getsize(part)):
            raise self.unreadable(
                f"{part} announces a header of {length} bytes, more than its size or the "
                f"limit of {LARGEST_JSON}"
            )
        with self._open(part) as tensors:
            self.metadata |= tensors.metadata() or {}
            for name in tensors.keys():  # noqa: SIM118 (no dict)
                if name in self._file_of:
                    raise self.unreadable(
                        f"{name} is in {self._file_of[name]} and in {part}"
                    )
                self._file_of[name] = part
                if name.endswith(INDICES):
                    continue
                view = tensors.get_slice(name)
                dtype = view.get_dtype()
                self.dtypes[name] = _DTYPES.get(dtype, dtype)
                self.shapes[name] = tuple(view.get_shape())

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
            # Reopen the file for each tensor: an open file keeps all data read from it in
            # memory.
            with self._open(self._file_of[name]) as tensors:
                return tensors.get_tensor(name).astype("float32", copy=False)

        yield read
