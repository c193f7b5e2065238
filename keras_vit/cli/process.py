"""Commands that end as processes, whatever TensorFlow's threads still do."""

import os
import sys
from collections.abc import Callable


def run_as_process(main: Callable[[], None]) -> None:
    """Run a command that reads images, as the process itself.

    After an error in the input pipeline, TensorFlow's threads still read ahead, and its
    destructors abort the process at exit. A command that fails ends without them.

    Args:
        main: the command; it raises SystemExit with a message or a status.
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
