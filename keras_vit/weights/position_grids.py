"""Grids of position embeddings, guessed from the number of their rows."""

import math
import os
import warnings
from collections.abc import Sequence


def guessed_grid(
    path: str | os.PathLike,
    rows: int,
    prefixes: Sequence[int],
    target: tuple[int, int] | None,
    first_is_right: bool,
) -> tuple[int, tuple[int, int] | None]:
    """Return the first number of prefix rows that leaves a square or the target.

    Args:
        path: path of the checkpoint, for messages.
        rows: int, number of rows of the table.
        prefixes: possible numbers of rows for prefix tokens, most likely first.
        target: grid shape of the model, or None.
        first_is_right: bool, whether the first possible number is known to be right; a
            warning is given otherwise if there are several.

    Returns:
        Number of prefix rows, and the grid shape, or None if it is unknown.

    Raises:
        ValueError: the patches may be a square or the target.
    """
    found = []
    for prefix in prefixes:
        side = math.isqrt(rows - prefix)
        square = (side, side) if side * side == rows - prefix else None
        fits = target if target and math.prod(target) == rows - prefix else None
        if square and fits and square != fits:
            raise ValueError(
                f"The {rows - prefix} positions of {path} may be a grid of "
                f"{square} or of {fits}. Pass the right one as "
                "source_grid_shape=(rows, columns)."
            )
        if square or fits:
            found.append((prefix, square or fits))
            if first_is_right:
                break
    if len(found) > 1:
        (prefix, grid), (other, other_grid), *_ = found
        warnings.warn(
            f"The {rows} position embeddings of {path} are read as {prefix} for "
            f"prefix tokens and a grid of {grid}. If they are {other} for prefix "
            f"tokens and a grid of {other_grid}, pass "
            f"source_grid_shape={other_grid}.",
            stacklevel=7,
        )
    return found[0] if found else (prefixes[0], None)
