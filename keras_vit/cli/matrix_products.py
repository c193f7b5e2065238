"""Library that multiplies matrices for JAX on CPUs."""

import importlib.metadata
import os

from keras_vit.cli import cpu

FLAG = "--xla_cpu_experimental_ynn_fusion_type="
# Both packages contain XLA, which ends a process that has an unknown flag in its
# environment. These versions know the flag; None stands for a package that is missing.
_KNOWN = {"jaxlib": ("0.10.2",), "tensorflow": ("2.21.0", None)}


def settings(backend: str | None) -> dict[str, str]:
    """Return the environment variables that make matrix products on CPUs faster.

    jaxlib 0.10.2 uses YNNPACK, which computes the products of attention on one core. On
    CPUs with AVX2 a training step takes a tenth longer with it than if XLA multiplies
    itself; on those with AVX-512 it does not (docs/performance.md).

    Args:
        backend: value of `KERAS_BACKEND`, or None.

    Returns:
        Dict of the variables to set before JAX starts; empty with another backend, on
        other CPUs, for unknown versions, and if the user has set `XLA_FLAGS`.
    """
    if backend != "jax" or "XLA_FLAGS" in os.environ or not _has_avx2_only():
        return {}
    known = all(_version(package) in known for package, known in _KNOWN.items())
    return {"XLA_FLAGS": FLAG} if known else {}


def _version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _has_avx2_only():
    features = cpu.features()
    return "avx2" in features and "avx512" not in features
