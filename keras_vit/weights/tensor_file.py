"""Base class and safety checks for files of named tensors."""

import contextlib
import json
import math
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import numpy as np

# Names of the dtypes that weights may have.
FLOATS = ("float16", "float32", "float64", "bfloat16")

# Trained weights hardly compress. A file whose tensors, as float32, need more than this
# many times its own size is an attempt to exhaust the memory.
LARGEST_EXPANSION = 10

# Ends of the names of integer tensors that number positions or training steps and are not
# weights.
INDICES = ("position_ids", "relative_position_index", "num_batches_tracked")

# Size limit in bytes of a configuration, an index or a header. Parsing needs about 25
# times as much memory.
LARGEST_JSON = 8 * 2**20

# Largest number of files in a sharded checkpoint. The largest published checkpoints have
# fewer than 200.
_MOST_FILES = 1000


class TensorFile:
    """Base class of readers of files of named tensors.

    The constructor reads names and shapes only.

    Args:
        path: path of the file.

    Attributes:
        path: str, path of the file, or of the first of several files.
        shapes: dict from name to shape, in the order of the file.
        format: str, file extension of the format, for error messages.

    Raises:
        ValueError: if `path` is not a regular file.
    """

    format: ClassVar[str]

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        check_regular_file(self.path)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}

    @contextlib.contextmanager
    def reader(self) -> Iterator[Callable[[str], np.ndarray]]:
        """Context manager that yields a function from the name of a tensor to its array.

        The function returns float32 arrays and must not be called after the context has
        been left.

        Raises:
            ValueError: if the file is damaged.
        """
        raise NotImplementedError
        yield

    def unreadable(self, reason: object) -> ValueError:
        """Return the error to raise if the file is damaged or hostile."""
        return unreadable(self.path, f"{self.format} checkpoint", reason)

    def check_dtypes(self) -> None:
        """Raise a `ValueError` unless all tensors have a dtype that weights may have."""
        for name, dtype in self.dtypes.items():
            self.check_dtype(name, dtype)

    def check_dtype(self, name: str, dtype: object) -> None:
        """Raise a `ValueError` unless weights may have this dtype.

        Args:
            name: name of the tensor, for the message.
            dtype: dtype of the tensor, or its name.
        """
        if str(dtype) not in FLOATS:
            raise ValueError(
                f"{name} in {self.path} holds {dtype}, not {', '.join(FLOATS)}. "
                "Checkpoints of other dtypes cannot be read."
            )

    def read_index(self) -> dict[str, str]:
        """Read the index of a sharded checkpoint.

        Returns:
            Dict from the name of each tensor to the path of its file.

        Raises:
            ValueError: if the file is not an index, lists too many files, or names files
                that are missing or in other directories.
        """
        directory, name = os.path.split(self.path)
        index = read_json(directory, name).get("weight_map")
        known = isinstance(index, dict) and all(
            isinstance(x, str) for x in index.values()
        )
        files = set(index.values()) if index and known else set()
        if not files or len(files) > _MOST_FILES:
            raise self.unreadable(
                "its weight_map must give the name of a file for each tensor, and list "
                f"at most {_MOST_FILES} files"
            )
        for file in files:
            # An index must not refer to files outside its own directory.
            if file != os.path.basename(file) or "\\" in file or "\0" in file:
                raise self.unreadable(f"its index names {file!r}, not a file name")
            if not os.path.exists(os.path.join(directory, file)):
                raise self.unreadable(f"{os.path.join(directory, file)} is missing")
        assert index is not None
        return {tensor: os.path.join(directory, file) for tensor, file in index.items()}

    def check_budget(self, paths: Iterable[str | os.PathLike] = ()) -> None:
        """Check that the tensors do not need too much memory for the size of the files.

        Args:
            paths: paths of all files that hold the tensors; by default only `path`.

        Raises:
            ValueError: if the tensors need more than `LARGEST_EXPANSION` times the size
                of the files.
        """
        needed = sum(4 * math.prod(shape) for shape in self.shapes.values())
        size = sum(os.path.getsize(path) for path in (list(paths) or [self.path]))
        reason = exceeds_budget(needed, size)
        if reason:
            raise self.unreadable(reason)


def unreadable(path: str, kind: str, reason: object) -> ValueError:
    """Return the error to raise for a damaged or hostile file.

    Args:
        path: path of the file.
        kind: str, kind of file that was expected, such as `".npz checkpoint"`.
        reason: what is wrong, as text or as an exception.
    """
    return ValueError(
        f"{path} ({os.path.getsize(path)} bytes) is not a readable {kind}: {reason}. If "
        "it was downloaded, delete it and download it again."
    )


def exceeds_budget(needed: int, size: int) -> str | None:
    """Check the memory that a file needs against the size of the file.

    Args:
        needed: int, bytes of memory that the content of the file needs.
        size: int, size of the file in bytes.

    Returns:
        str, the reason why `needed` is too much, or None if it is acceptable.
    """
    if needed <= LARGEST_EXPANSION * size:
        return None
    return (
        f"its {size} bytes would expand to {needed} bytes in memory, more than "
        f"{LARGEST_EXPANSION} times as much, which trained weights never do"
    )


def check_regular_file(path: str) -> None:
    """Raise a `ValueError` for a directory, pipe, socket or device.

    Opening a pipe may block forever, and reading a device may never end.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(
            f"{path} is not a regular file, but a directory, pipe, socket or device. "
            "Pass the path of a checkpoint."
        )


def parse_json(text: str | bytes, path: str, allow_nan: bool = False) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        text: JSON text.
        path: path of the file that the text comes from, for the message.
        allow_nan: bool, whether to accept NaN and infinity, which standard JSON does not
            have but configurations of Keras may contain.

    Returns:
        dict.

    Raises:
        ValueError: if the text is not a JSON object, is longer than `LARGEST_JSON`, is
            nested too deeply, or has NaN or infinity without `allow_nan`.
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
        kind = type(content).__name__
        raise ValueError(f"{path} must hold a JSON object; it holds a {kind}.")
    return content


def read_json(directory: str, name: str) -> dict[str, Any]:
    """Read a JSON file beside a checkpoint.

    Args:
        directory: path of the directory.
        name: name of the file.

    Returns:
        dict, which is empty if the file does not exist.

    Raises:
        ValueError: if the file is not a JSON object.
    """
    path = os.path.join(directory, name)
    if not os.path.lexists(path):
        return {}
    check_regular_file(path)
    with open(path, "rb") as file:
        return parse_json(file.read(LARGEST_JSON + 1), path)
