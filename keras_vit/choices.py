"""Choices that commands list in their help, and the check of a value.

The parsers of the commands import this module, so it must not import Keras or NumPy.
"""

from collections.abc import Iterable
from typing import Any

# Endings of the files that `keras_vit.convert` writes, and the libraries that it writes
# directories for.
TARGETS = (".keras", ".weights.h5", ".npz")
LIBRARIES = ("timm", "transformers")
# Storage dtypes of the weights in SavedModels.
WEIGHTS_DTYPES = ("float32", "bfloat16", "int8")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise a `ValueError` unless `value` is one of the `choices` of an argument."""
    if value not in choices:
        raise ValueError(
            f"Unknown {name} {value!r}; choose one of {', '.join(map(repr, choices))}."
        )
