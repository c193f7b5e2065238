"""Clean exit of failed commands while TensorFlow's threads are still running."""

import os
import sys
from collections.abc import Callable


def run_as_process(main: Callable[[], None]) -> None:
    """Run a command that reads images, and exit without destructors if it fails.

    After an error in the input pipeline, TensorFlow's threads still prefetch images, and
    its destructors would abort the process at exit.

    Args:
        main: the command; on failure it raises SystemExit with a message or a status.
    """
    try:
        main()
    except SystemExit as stop:
        status = stop.code
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
        if not status:
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
