"""Seconds of a function."""

import statistics
import time
from collections.abc import Callable
from typing import Any


def seconds(function: Callable[[], Any]) -> float:
    """Of one call; the function must wait for its result."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def median_seconds(function: Callable[[], Any], repetitions: int) -> float:
    """The median of `repetitions` calls."""
    return statistics.median(seconds(function) for _ in range(repetitions))
