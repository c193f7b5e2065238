"""Timing of function calls."""

import statistics
import time
from collections.abc import Callable
from typing import Any


def seconds(function: Callable[[], Any]) -> float:
    """Return the seconds that one call takes.

    Args:
        function: function without arguments that returns only when its result is
            available.
    """
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def median_seconds(function: Callable[[], Any], repetitions: int) -> float:
    """Return the median seconds of `repetitions` calls."""
    return statistics.median(seconds(function) for _ in range(repetitions))
