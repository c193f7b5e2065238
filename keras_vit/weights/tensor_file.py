"""Files of named tensors: what the readers of all formats share."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

# The kinds of numbers that weights may have: float16, float32, float64; bfloat16.
FLOATS = ("float16", "float32", "float64", "bfloat16")


class TensorFile:
    """A file of named tensors. Opening reads names and shapes only.

    Attributes:
        path: str, the file, or the first of several.
        shapes: dict from name to shape, in the file's order.
    """

    format: ClassVar[str]

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
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
        return ValueError(
            f"{self.path} ({os.path.getsize(self.path)} bytes) is not a readable "
            f"{self.format} checkpoint: {reason}. If it was downloaded, delete it and "
            "download it again."
        )

    def check_dtype(self, name: str, dtype: object) -> None:
        """Raises a `ValueError` unless weights may have this dtype."""
        if str(dtype) not in FLOATS:
            raise ValueError(
                f"{name} in {self.path} holds {dtype}, not {', '.join(FLOATS)}: not a "
                "checkpoint that this version reads."
            )


def read_json(directory: str, name: str) -> dict[str, Any]:
    """What lies beside a checkpoint; an empty dict where there is no such file.

    Raises:
        ValueError: the file is no object of JSON.
    """
    path = os.path.join(directory, name)
    if not os.path.isfile(path):
        return {}
    with open(path, encoding="utf-8") as file:
        try:
            content = json.load(file)
        except ValueError as error:
            raise ValueError(f"{path} is not readable JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object, but {type(content).__name__}.")
    return content
