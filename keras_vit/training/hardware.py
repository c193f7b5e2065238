"""Descriptions of the hardware that a run is planned for, read from TOML files."""

import dataclasses
import importlib.resources
import pathlib
import tomllib
from typing import Any

from keras_vit.choices import check_choice
from keras_vit.weights.tensor_file import check_regular_file

PLATFORMS = ("gpu", "tpu", "cpu")
_FRACTIONS = ("memory_fraction", "compute_fraction", "bandwidth_fraction")
_COUNTS = ("hosts", "devices_per_host", "cores_per_host")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hardware:
    """Hosts with equal devices. A GB is `1e9` bytes.

    Attributes:
        platform: `"gpu"`, `"tpu"` or `"cpu"`, which decides what XLA keeps in memory.
        hosts: number of hosts.
        devices_per_host: number of devices of each host.
        memory_gb: memory of a device.
        memory_fraction: part of that memory that a training step may use.
        compute_fraction: part of the peak FLOP/s that a training step reaches.
        device_gb_per_second: rate from one device to others of the same host.
        host_gb_per_second: rate from one host to others, over all its adapters.
        bandwidth_fraction: part of these two rates that exchanges reach.
        cores_per_host: processor cores of a host, for the input pipeline.
        images_per_core: images/s that a core decodes and augments.
        storage_gb_per_second: rate at which a host reads the images.
        peak_tflops: dict from compute dtypes, such as `"bfloat16"`, to the dense peak of
            a device in `1e12` FLOP/s.

    Example:

    >>> from keras_vit.training import hardware
    >>> hardware.load("h100x8").devices
    8
    """

    platform: str
    hosts: int
    devices_per_host: int
    memory_gb: float
    memory_fraction: float
    compute_fraction: float
    device_gb_per_second: float
    host_gb_per_second: float
    bandwidth_fraction: float
    cores_per_host: int
    images_per_core: float
    storage_gb_per_second: float
    peak_tflops: dict[str, float]

    @property
    def devices(self) -> int:
        """Number of devices of all hosts."""
        return self.hosts * self.devices_per_host

    @property
    def usable_bytes(self) -> float:
        """Bytes of a device that a training step may use."""
        return 1e9 * self.memory_gb * self.memory_fraction

    def flops(self, dtype: str) -> float:
        """Return the FLOP/s that a step reaches on one device.

        Args:
            dtype: the compute dtype, such as `"bfloat16"`.

        Raises:
            ValueError: the description has no peak for this dtype.
        """
        if dtype not in self.peak_tflops:
            raise ValueError(
                f"The hardware has no peak for {dtype}; its [peak_tflops] has "
                f"{', '.join(self.peak_tflops)}. Choose another --dtype, or add a line "
                f"`{dtype} = ...` to a copy of the hardware file."
            )
        return 1e12 * self.peak_tflops[dtype] * self.compute_fraction


def names() -> list[str]:
    """Return the names of the descriptions in `keras_vit/data/hardware`."""
    files = _directory().iterdir()
    return sorted(pathlib.Path(file.name).stem for file in files)


def load(name_or_path: str) -> Hardware:
    """Return a description by its name or from a TOML file.

    Args:
        name_or_path: one of `names()`, or a path that ends in `.toml`.

    Raises:
        ValueError: there is no description of that name, the file is not TOML, a key is
            unknown or missing, or a value is out of its range.
        FileNotFoundError: the file does not exist.

    Example:

    >>> from keras_vit.training import hardware
    >>> hardware.names()
    ['a100x8', 'h100_pod', 'h100x8']
    """
    if not name_or_path.endswith(".toml"):
        if name_or_path not in names():
            raise ValueError(
                f"No hardware is called {name_or_path!r}; there are "
                f"{', '.join(names())}. For other hardware, pass the path of a .toml "
                "file: copy one of keras_vit/data/hardware."
            )
        text = (_directory() / f"{name_or_path}.toml").read_text()
    else:
        if not pathlib.Path(name_or_path).exists():
            raise FileNotFoundError(
                f"{name_or_path} does not exist. Described already: {', '.join(names())}."
            )
        check_regular_file(name_or_path)
        text = pathlib.Path(name_or_path).read_text()
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{name_or_path} is not TOML: {error}") from None
    return _checked(values, name_or_path)


def _directory():
    return importlib.resources.files("keras_vit.data") / "hardware"


def _checked(values, source):
    """Return the description, after a check of every key and value."""
    known = [field.name for field in dataclasses.fields(Hardware)]
    for problem, keys in {
        "unknown": [key for key in values if key not in known],
        "missing": [key for key in known if key not in values],
    }.items():
        if keys:
            raise ValueError(
                f"{source}: {problem} {', '.join(keys)}. A description of hardware has "
                f"exactly these keys: {', '.join(known)}."
            )
    try:
        check_choice("platform", values["platform"], PLATFORMS)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    peaks = values["peak_tflops"]
    if not isinstance(peaks, dict) or not peaks:
        raise ValueError(
            f"{source}: peak_tflops must be a table with a line for each dtype, such as "
            f"[peak_tflops] and bfloat16 = 989; received {peaks!r}."
        )
    numbers = {k: v for k, v in values.items() if k not in ("platform", "peak_tflops")}
    numbers |= {f"peak_tflops.{key}": value for key, value in peaks.items()}
    for key, value in numbers.items():
        _check_number(key, value, source)
    return Hardware(**values)


def _check_number(key: str, value: Any, source: str) -> None:
    kind: type | tuple[type, ...] = (int, float)
    limit, most = "a positive number", 1e15
    if key in _COUNTS:
        kind, limit, most = int, "a whole number from 1 to 1,000,000", 1e6
    elif key in _FRACTIONS:
        limit, most = "a number above 0 and at most 1", 1
    fits = isinstance(value, kind) and not isinstance(value, bool)
    if not fits or not 0 < value <= most:
        raise ValueError(
            f"{source}: {key} must be {limit}; received {value!r}. Correct this line."
        )
