"""Preemption: SIGTERM, by which a scheduler announces that it will end a process."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from keras_vit import processes

_received = False


class Preempted(KeyboardInterrupt):
    """Raised when a run has saved its state because of SIGTERM."""


@contextlib.contextmanager
def noticed() -> Iterator[None]:
    """Note SIGTERM in a `with` block instead of ending the process.

    Does nothing outside the main thread, or if the caller has a handler of its own. In
    several processes, JAX notes the signal.

    Raises:
        Preempted: at the end of the block, if SIGTERM came and nothing else was raised.
    """
    global _received
    _received = False
    handled = (
        processes.count() == 1
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    )
    if handled:
        signal.signal(signal.SIGTERM, _note)
    try:
        yield
    finally:
        if handled:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if _received:
        raise Preempted


def _note(number, frame):
    global _received
    _received = True


def received() -> bool:
    """Return whether this process, which is alone, has received SIGTERM."""
    return _received


def stops_after(step: int) -> bool:
    """Return whether to save and stop after a step.

    If one of several processes receives SIGTERM, all of them stop after the same step.

    Args:
        step: number of the step.
    """
    if processes.count() == 1:
        return _received
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)
