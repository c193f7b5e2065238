"""Stub of torchvision for environments that do not have it.

timm imports torchvision for data loading, which the benchmark does not measure, and for
some CPU builds of torch there is no matching torchvision. The stub makes the import
succeed; each of its attributes is an empty class.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types


def _empty_class(_, name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _Names(name, (), {})


class _Names(type):
    __getattr__ = _empty_class


class _Module(types.ModuleType):
    __version__ = "0.0.0"
    __getattr__ = _empty_class


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Module(spec.name)

    def exec_module(self, module):
        pass


def install() -> None:
    """Install the stub, unless torchvision itself is installed."""
    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.append(_Finder())
