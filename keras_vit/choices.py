"""Check of values that are chosen from a list."""

from collections.abc import Iterable
from typing import Any


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise a `ValueError` unless `value` is one of the `choices` of an argument."""
    if value not in choices:
        raise ValueError(
            f"Unknown {name} {value!r}; choose one of {', '.join(map(repr, choices))}."
        )
