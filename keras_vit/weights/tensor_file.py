"""Files of named tensors: what the readers of all formats share."""

import contextlib
import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import numpy as np

# The kinds of numbers that weights may have: float16, float32, float64; bfloat16.
FLOATS = ("float16", "float32", "float64", "bfloat16")

# Trained weights hardly compress: a file whose tensors, as float32, need more than this
# many times its own size was made to exhaust the memory.
LARGEST_EXPANSION = 10

# Of a configuration, an index or a header. Parsing takes about 25 times as much memory.
LARGEST_JSON = 8 * 2**20

# Files of one checkpoint. The largest published ones have less than 200.
_MOST_FILES = 1000


class TensorFile:
    """A file of named tensors. Opening reads names and shapes only.

    Attributes:
        path: str, the file, or the first of several.
        shapes: dict from name to shape, in the file's order.
    """

    format: ClassVar[str]

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        check_regular_file(self.path)
        self.shapes: dict[str, tuple[int, ...]] = {}

    @contextlib.contextmanager
    def reader(self) -> Iterator[Callable[[str], np.ndarray]]:
        """A function from name to array, while the `with` lasts.

        Raises:
            ValueError: the file is damaged.
        """
        raise NotImplementedError
        yield

    def unreadable(self, reason: object) -> ValueError:
        """The error that says that the file is damaged, to be raised."""
        return unreadable(self.path, f"{self.format} checkpoint", reason)

    def check_dtype(self, name: str, dtype: object) -> None:
        """Raises a `ValueError` unless weights may have this dtype."""
        if str(dtype) not in FLOATS:
            raise ValueError(
                f"{name} in {self.path} holds {dtype}, not {', '.join(FLOATS)}: not a "
                "checkpoint that this version reads."
            )

    def read_index(self) -> dict[str, str]:
        """Return the path of each tensor's file, for an index of several files.

        Raises:
            ValueError: not an index, or it names files in other directories.
        """
        directory, name = os.path.split(self.path)
        index = read_json(directory, name).get("weight_map")
        known = isinstance(index, dict) and all(
            isinstance(x, str) for x in index.values()
        )
        files = set(index.values()) if index and known else set()
        if not files or len(files) > _MOST_FILES:
            raise self.unreadable(
                "its weight_map must give the name of a file for each tensor, of at most "
                f"{_MOST_FILES} files"
            )
        for file in files:
            # Names, not paths: an index must not point out of its directory.
            if file != os.path.basename(file) or "\\" in file or "\0" in file:
                raise self.unreadable(f"its index names {file!r}, which is no file name")
            if not os.path.exists(os.path.join(directory, file)):
                raise self.unreadable(f"{os.path.join(directory, file)} is missing")
        assert index is not None
        return {tensor: os.path.join(directory, file) for tensor, file in index.items()}

    def check_budget(self, paths: Iterable[str | os.PathLike] = ()) -> None:
        """Check the memory that `shapes` need against the size of the files.

        Args:
            paths: all files that the tensors are in; by default `path` alone.

        Raises:
            ValueError: the tensors need more than `LARGEST_EXPANSION` times that size.
        """
        needed = sum(4 * math.prod(shape) for shape in self.shapes.values())
        size = sum(os.path.getsize(path) for path in (list(paths) or [self.path]))
        reason = exceeds_budget(needed, size)
        if reason:
            raise self.unreadable(reason)


def unreadable(path: str, kind: str, reason: object) -> ValueError:
    """Return the error for a damaged or hostile file, to be raised."""
    return ValueError(
        f"{path} ({os.path.getsize(path)} bytes) is not a readable {kind}: {reason}. If "
        "it was downloaded, delete it and download it again."
    )


def exceeds_budget(needed: int, size: int) -> str | None:
    """Return why `needed` bytes of memory are too many for a file of `size` bytes."""
    if needed <= LARGEST_EXPANSION * size:
        return None
    return (
        f"its {size} bytes would expand to {needed} bytes in memory, more than "
        f"{LARGEST_EXPANSION} times as much, which trained weights never do"
    )


def check_regular_file(path: str) -> None:
    """Raise a `ValueError` for a pipe, a socket, a device or a directory.

    Opening a pipe may wait forever, and a device may never end.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(
            f"{path} is not a regular file (but a directory, pipe, socket or device): "
            "pass the path of a checkpoint."
        )


def parse_json(text: str | bytes, path: str, allow_nan: bool = False) -> dict[str, Any]:
    """Return the JSON object in `text`.

    Args:
        text: JSON.
        path: where it comes from, for the message.
        allow_nan: bool, whether NaN and infinity may be in it, as in Keras's.

    Raises:
        ValueError: not a JSON object, longer than `LARGEST_JSON`, nested too deeply, or
            with NaN or infinity, which JSON does not have.
    """
    if len(text) > LARGEST_JSON:
        raise ValueError(
            f"{path} has {len(text)} bytes; configurations and indices have at most "
            f"{LARGEST_JSON}."
        )

    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    try:
        content = json.loads(text, parse_constant=None if allow_nan else refuse)
    except RecursionError:
        raise ValueError(f"{path} is not readable JSON: nested too deeply.") from None
    except ValueError as error:
        raise ValueError(f"{path} is not readable JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object, but {type(content).__name__}.")
    return content


def read_json(directory: str, name: str) -> dict[str, Any]:
    """What lies beside a checkpoint; an empty dict where there is no such file.

    Raises:
        ValueError: the file is no object of JSON.
    """
    path = os.path.join(directory, name)
    if not os.path.lexists(path):
        return {}
    check_regular_file(path)
    with open(path, "rb") as file:
        return parse_json(file.read(LARGEST_JSON + 1), path)
