"""Vision Transformers for Keras 3."""

import importlib
import os
import sys
from typing import TYPE_CHECKING

__version__ = "0.1.0"


def _is_command() -> bool:
    """Return True if Python imports this package to run one of its commands."""
    words = sys.orig_argv
    # With `python -m`, `sys.argv[0]` is "-m" until the module starts.
    if sys.argv[:1] == ["-m"]:
        module = words[words.index("-m") + 1] if "-m" in words else ""
        return module.partition(".")[0] == __name__
    program = os.path.basename(sys.argv[0]) if sys.argv else ""
    return program.removesuffix(".exe") == "keras-vit"


if TYPE_CHECKING or not _is_command():
    from keras_vit.api import *  # noqa: F403
    from keras_vit.api import __all__ as __all__
else:
    # Python executes this file before any module in the package, including the one that
    # parses the arguments of `keras-vit`. Importing Keras takes seconds, and neither
    # `--help` nor `serve` needs it. Everywhere else, `import keras_vit` must import all
    # layers at once, because that registers them for `keras.models.load_model`.

    def __getattr__(name):
        if name.startswith("__"):
            raise AttributeError(f"{__name__} has no attribute {name!r}.")
        return getattr(importlib.import_module("keras_vit.api"), name)
