"""Ctrl-C: a command that is interrupted ends with one line."""

import os
import signal
import sys

_IMPORT = "<frozen importlib._bootstrap>"
_INTERRUPTED = 130  # The exit status that shells report for SIGINT.


def install() -> None:
    """Handle SIGINT in this process, and KeyboardInterrupt where nothing catches it."""
    sys.excepthook = _excepthook
    # A background job of a shell ignores SIGINT, and so does its command.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number, frame):
    """Raise KeyboardInterrupt, or end the process while it imports a module.

    Optional imports catch every exception, KeyboardInterrupt included, and the command
    would continue.
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
