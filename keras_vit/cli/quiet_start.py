"""Import of TensorFlow without its messages about CUDA and the CPU."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Hide what C++ libraries write to stderr while they are imported.

    TensorFlow logs which CUDA libraries and CPU features it finds before
    TF_CPP_MIN_LOG_LEVEL takes effect, so this redirects the file descriptor. Python
    writes to stderr as usual. The messages are printed if the import fails, or always if
    TF_CPP_MIN_LOG_LEVEL is 0. The level 3 also hides later messages, about a missing CUDA
    driver and about data types that oneDNN does not have. TensorFlow's errors still reach
    the user, as exceptions.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") == "0":
        yield
        return
    stderr, hidden = sys.stderr, tempfile.TemporaryFile()  # noqa: SIM115
    original = os.dup(2)
    # Not closed at the end, because the handlers of loggers made in between keep it.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    os.dup2(hidden.fileno(), 2)
    try:
        yield
    except BaseException:
        hidden.seek(0)
        os.write(original, hidden.read())
        raise
    finally:
        sys.stderr = stderr
        os.dup2(original, 2)
        os.close(original)
        hidden.close()
