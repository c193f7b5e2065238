"""`.safetensors` files, as timm and transformers write them."""

import contextlib
import os
from typing import Any

from keras_vit.weights.tensor_file import (
    LARGEST_JSON,
    TensorFile,
    check_regular_file,
    parse_json,
)

_DTYPES = {"F16": "float16", "F32": "float32", "F64": "float64", "BF16": "bfloat16"}

# Files of one checkpoint. The largest published ones have less than 200.
_MOST_FILES = 1000


class SafetensorsFile(TensorFile):
    """A `.safetensors` file, or the index (`.safetensors.index.json`) of several.

    Raises:
        ValueError: the file is damaged, or holds something other than floats; an index
            that does not agree with its files, or names files elsewhere.
    """

    format = ".safetensors"

    def __init__(self, path):
        super().__init__(path)
        index = self._read_index() if self.path.endswith(".json") else None
        files = [self.path] if index is None else sorted(set(index.values()))
        self._file_of: dict[str, str] = {}
        for part in files:
            self._read_header(part)
        if index is not None and index != self._file_of:
            wrong = sorted(index.items() ^ self._file_of.items())
            raise self.unreadable(
                f"its index does not agree with its files about {wrong[0][0]}"
            )
        self.check_budget(files)

    def _read_index(self):
        """Return the path of each tensor's file."""
        with open(self.path, "rb") as file:
            content = parse_json(file.read(LARGEST_JSON + 1), self.path)
        index = _text_to_text(content.get("weight_map"))
        names = set(index.values())
        if not names or len(names) > _MOST_FILES:
            raise self.unreadable(
                "its weight_map must give the name of a file for each tensor, of at most "
                f"{_MOST_FILES} files"
            )
        for name in names:
            # Names, not paths: an index must not point out of its directory.
            if name != os.path.basename(name) or "\\" in name or "\0" in name:
                raise self.unreadable(f"its index names {name!r}, which is no file name")
        directory = os.path.dirname(self.path)
        return {tensor: os.path.join(directory, file) for tensor, file in index.items()}

    def _read_header(self, part):
        if not os.path.exists(part):
            raise self.unreadable(f"its index names {part}, which does not exist")
        check_regular_file(part)
        with open(part, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
        if length > min(LARGEST_JSON, os.path.getsize(part)):
            raise self.unreadable(
                f"{part} announces a header of {length} bytes, more than it has, or than "
                f"{LARGEST_JSON}"
            )
        with self._open(part) as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no dict)
                if name in self._file_of:
                    raise self.unreadable(
                        f"{name} is in {self._file_of[name]} and in {part}"
                    )
                view = tensors.get_slice(name)
                self.check_dtype(name, _DTYPES.get(view.get_dtype(), view.get_dtype()))
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


def _text_to_text(value: Any) -> dict[str, str]:
    """Return `value` if it maps text to text, else an empty dict."""
    if isinstance(value, dict) and all(isinstance(x, str) for x in value.values()):
        return value
    return {}
