"""Imports; this module loads nothing itself."""

import importlib

from recipes.benchmark.timing import seconds


def imports(library):
    """Seconds of `import keras`, then of `import library`, in a fresh process."""

    def measure():
        return {
            "import keras (s)": seconds(lambda: importlib.import_module("keras")),
            "then the library (s)": seconds(lambda: importlib.import_module(library)),
        }

    return measure
