"""Preemption: SIGTERM, by which a scheduler announces that it will end a process."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

from keras_vit import processes

_received = False
_asked = 0  # Number of calls of `stops`.


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
    global _received, _asked
    _received, _asked = False, 0
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
    """Return whether the run has to stop because of SIGTERM.

    Of several processes, all return the same: what the last call of `stops` returned.
    """
    return _received


def stop() -> NoReturn:
    """Raise `Preempted`, once the other processes have saved what they have to."""
    processes.leave()
    raise Preempted


def stops() -> bool:
    """Return whether to save and stop now, after a step or several executed together.

    If one of several processes receives SIGTERM, all of them stop after the same step.
    """
    global _received, _asked
    if processes.count() > 1 and not _received:
        from jax.experimental import multihost_utils

        # JAX chooses one of the next calls by its number, so the numbers have no gaps.
        _asked += 1
        _received = multihost_utils.reached_preemption_sync_point(_asked)
    return _received
