"""Record of the machine, versions and settings that a result belongs to."""

import contextlib
import datetime
import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from keras_vit.cli import huge_pages, matrix_products

PACKAGES = """keras_vit keras keras_hub tensorflow jax jaxlib torch timm transformers
flax optax jimm onnxruntime ai-edge-litert numpy pillow"""
SETTINGS = re.compile(
    "XLA_FLAGS|TF_(XLA_FLAGS|ENABLE_.*|NUM_.*)|JAX_(ENABLE|DEFAULT)_.*|OMP_NUM_THREADS"
    "|CUDA_VISIBLE_DEVICES|GLIBC_TUNABLES|MALLOC_.*"
)


def record(backends: Iterable[str]) -> dict[str, Any]:
    """Return the date, command, machine, versions and relevant environment variables.

    Args:
        backends: backends of the workers, whose variables `runner.Worker` sets.
    """
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": ["python", "-m", "recipes.benchmark", *sys.argv[1:]],
        "revision": revision(),
        "cpu": _field("/proc/cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": _field("/proc/meminfo", "MemTotal"),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": versions(),
        "settings": settings(backends),
    }


def settings(backends: Iterable[str]) -> dict[str, str]:
    """Return the relevant environment variables of this process and of the workers."""
    found = {k: v for k, v in os.environ.items() if SETTINGS.fullmatch(k)}
    for backend in backends:
        found |= worker_settings(backend)
    return found


def worker_settings(backend: str) -> dict[str, str]:
    """Return the environment variables that `keras-vit` sets under a backend."""
    return {**matrix_products.settings(backend), **huge_pages.settings(backend)}


def versions() -> dict[str, str]:
    """Return the versions of the installed packages among `PACKAGES`."""
    found = {}
    for package in PACKAGES.split():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def revision() -> str | None:
    """Return the git commit, followed by `-dirty` if there are uncommitted changes.

    Returns:
        str, or None if there is no git or no repository.
    """
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        root = pathlib.Path(__file__).parent
        return subprocess.run(
            command, cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()
    return None


def _field(path, name):
    """Return the value of a `name: value` line in a file, or None."""
    with contextlib.suppress(OSError):
        for line in pathlib.Path(path).read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return None
