"""Task for import times; this module itself imports no framework."""

import importlib

from recipes.benchmark.timing import seconds


def imports(library):
    """Prepare to time `import keras`, then `import library`."""

    def measure():
        return {
            "import keras (s)": seconds(lambda: importlib.import_module("keras")),
            "then the library (s)": seconds(lambda: importlib.import_module(library)),
        }

    return measure
