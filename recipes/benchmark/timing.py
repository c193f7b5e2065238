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


def throughput(
    forward: Callable[[], Any], batch: int, repetitions: int
) -> Callable[[], dict[str, float]]:
    """Warm up, and return a function that measures latency and throughput.

    Args:
        forward: function that computes a batch, see `seconds`.
        batch: number of images in the batch.
        repetitions: number of calls, of which the median is taken.
    """
    for _ in range(2):
        forward()

    def measure():
        duration = median_seconds(forward, repetitions)
        return {"latency (ms)": 1e3 * duration, "images/s": batch / duration}

    return measure
