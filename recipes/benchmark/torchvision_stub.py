"""Stands in for torchvision where there is none.

timm imports torchvision for its data loading, which is not measured here; a torch without
CUDA often has no torchvision that fits. The stub lets the import succeed: any name is an
empty class.
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
    """Does nothing where torchvision is installed."""
    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.append(_Finder())
