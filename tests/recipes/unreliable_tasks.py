"""Benchmark tasks that fail in various ways, for tests/recipes/test_benchmark.py."""

import os
import signal
import time


def sound():
    return lambda: {"length (m)": 2.0, "step (s)": 0.5}


def missing():
    import a_package_that_is_not_there  # noqa: F401


def hangs():
    return lambda: time.sleep(600)


def ends():
    return lambda: os._exit(3)


def runs_out_of_memory_in_its_second_measurement():
    calls = []

    def measure():
        calls.append(1)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"step (s)": 1.5}

    return measure
