"""Huge pages for the memory of JAX on CPUs."""

import os
import pathlib
import platform
import sys

from keras_vit.cli import cpu

# The number of the process that has started again.
_RESTARTED = "KERAS_VIT_RESTARTED"
VARIABLE, VALUE = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
_KERNEL = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
# The first version of glibc that knows the setting.
_GLIBC = (2, 35)


def settings(backend: str | None) -> dict[str, str]:
    """Return the environment variables that give JAX huge pages on CPUs.

    XLA allocates the memory of a training step again in every step, and the kernel clears
    it page by page: 140,000 pages for a ViT-S/16. With huge pages, a step takes three
    quarters of the time on CPUs with AVX-512; on one with AVX2 it took longer
    (docs/performance.md).

    Args:
        backend: value of `KERAS_BACKEND`, or None.

    Returns:
        Dict of the variables to set before the process starts; empty with another
        backend, on other CPUs and systems, where the kernel gives no huge pages or gives
        them to every process, and if the user has set `GLIBC_TUNABLES`.
    """
    if backend != "jax" or VARIABLE in os.environ or not _has_glibc():
        return {}
    faster = "avx512" in cpu.features() and _are_on_request()
    return {VARIABLE: VALUE} if faster else {}


def restart_with(variables: dict[str, str]) -> None:
    """Start the command again as the same process, if there are variables to set.

    glibc reads its settings only when a process starts.

    Args:
        variables: the variables that `settings` returned.
    """
    # The process keeps its number. A loader that drops the variables must not make it
    # start again and again.
    again = os.environ.get(_RESTARTED) == str(os.getpid())
    if variables and sys.executable and not again:
        os.environ.update({**variables, _RESTARTED: str(os.getpid())})
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _has_glibc():
    name, version = platform.libc_ver()
    return name == "glibc" and tuple(map(int, version.split(".")[:2])) >= _GLIBC


def _are_on_request():
    try:
        return "[madvise]" in _KERNEL.read_text()
    except OSError:  # Not Linux.
        return False
