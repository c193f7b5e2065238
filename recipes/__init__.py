"""Commands that train, evaluate, export and serve: `python -m recipes.NAME`."""

import sys


def _excepthook(kind, error, traceback):
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


if sys.argv[:1] == ["-m"]:  # A command is starting, and its imports take seconds.
    sys.excepthook = _excepthook
