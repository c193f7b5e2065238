"""Handling of signals: a stopped command exits with one line or none, not a traceback."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

_IMPORT = "<frozen importlib._bootstrap>"
_INTERRUPTED = 130  # The exit status that shells report for SIGINT.


def install() -> None:
    """Install handlers for SIGINT and for an uncaught KeyboardInterrupt."""
    sys.excepthook = _excepthook
    # Shells start background jobs with SIGINT ignored; leave it ignored there.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


@contextlib.contextmanager
def ends_with_its_reader() -> Iterator[None]:
    """Let the process end quietly if its output is no longer read, as in `... | head`.

    Other Unix commands do the same. Python raises a `BrokenPipeError` instead.
    """
    if not hasattr(signal, "SIGPIPE"):  # Windows has no such signal.
        yield
        return
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        yield
        sys.stdout.flush()
    finally:
        signal.signal(signal.SIGPIPE, before)


def _interrupt(number, frame):
    """Raise KeyboardInterrupt, or exit immediately during an import.

    Some libraries catch every exception of an optional import, including
    KeyboardInterrupt, and the command would continue.
    """
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT:
            _end()
        frame = frame.f_back
    raise KeyboardInterrupt


def _excepthook(kind, error, traceback):
    if issubclass(kind, KeyboardInterrupt):
        _end()
    sys.__excepthook__(kind, error, traceback)


def _end():
    sys.stdout.flush()
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(_INTERRUPTED)
