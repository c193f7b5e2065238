"""Processes that train or evaluate together, of one or more hosts, under JAX.

Keras's `keras.distribution.initialize` does the same as `joined`, but waits for five
minutes for a process that does not come, and notices a lost one after 100 seconds.
"""

import contextlib
import hashlib
import os
import pickle
import re
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

# Value of the coordinator with which JAX finds it, and the number of processes, in the
# environment of SLURM, Open MPI or a cloud TPU.
AUTO = "auto"
CONNECTING_SECONDS = 60  # Time in which all processes must have started.
LOST_SECONDS = 30  # Time after which a process that gives no sign is lost.
# What JAX's errors about a lost process begin with.
_LOST = ("ABORTED", "DEADLINE_EXCEEDED", "INTERNAL", "UNAVAILABLE", "UNKNOWN")
# Those that are about this process itself begin with these two as well.
_LOST_OR_OWN = ("INTERNAL", "UNKNOWN")
_ABOUT_OTHERS = re.compile(
    "coordination|distributed|gloo|nccl|heartbeat|peer|socket", re.I
)

_count = 1  # Number of processes that joined.
_index = 0  # Number of this one.


def count() -> int:
    """Return the number of processes that train together, 1 if this one is alone."""
    return _count


def is_first() -> bool:
    """Return whether this process prints and writes the files of the run."""
    return _index == 0


@contextlib.contextmanager
def joined(
    coordinator: str | None, processes: int | None, process: int | None
) -> Iterator[None]:
    """Join the processes that train together in a `with` block.

    Nothing may have been computed with JAX before. In the block, only the first process
    prints to standard output.

    Args:
        coordinator: `"HOST:PORT"` of the first process, which every process can reach;
            `"auto"` to take all arguments from the environment of SLURM, Open MPI or a
            cloud TPU; None to stay alone.
        processes: number of processes.
        process: number of this process, from 0.

    Raises:
        ValueError: the backend is not JAX, the coordinator is not `"HOST:PORT"`, or
            `"auto"` finds nothing.
        ConnectionError: the first process does not answer.

    Example:

    >>> from keras_vit import processes
    >>> with processes.joined(None, None, None):
    ...     processes.check_equal({"batch size": 64})
    ...     processes.count(), processes.is_first()
    (1, True)
    """
    if coordinator is None:
        yield
        return
    global _count, _index
    import jax

    _join(jax, coordinator, processes, process)
    _count, _index = jax.process_count(), jax.process_index()
    with contextlib.ExitStack() as stack:
        if not is_first():
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        yield
    leave()


def leave() -> None:
    """Let the other processes end without this one; it is alone from here on."""
    global _count
    if _count > 1:
        import jax

        wait("end")
        jax.distributed.shutdown()
        _count = 1


def wait(name: str) -> None:
    """Wait until all processes have come here.

    Args:
        name: name of the place, the same in all processes.
    """
    if _count > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def whole(value: Any) -> np.ndarray:
    """Return a tensor as a NumPy array, gathered from all processes that hold a part.

    All processes must ask for the same tensors in the same order.

    Args:
        value: a tensor or a variable.
    """
    import keras

    if isinstance(value, keras.Variable):
        value = value.value
    if _count == 1 or isinstance(value, np.ndarray) or value.is_fully_replicated:
        return keras.ops.convert_to_numpy(value)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(value, tiled=True))


def own_rows(tensor: Any) -> np.ndarray:
    """Return the rows of a tensor that this process holds, in their order.

    Args:
        tensor: a tensor of JAX that is split over its first axis, if at all.
    """
    rows = {shard.index[0].start or 0: shard.data for shard in tensor.addressable_shards}
    return np.concatenate([rows[start] for start in sorted(rows)])


@contextlib.contextmanager
def gathered(variables: Iterable[Any]) -> Iterator[None]:
    """Let the first process read and save variables as if it were alone.

    In the block, a variable that is split over processes has its whole value there, as a
    NumPy array in the memory of the host. All processes must enter the block.

    Args:
        variables: Keras variables, the same in all processes.
    """
    kept = []
    try:
        for variable in variables if _count > 1 else ():
            before = variable.value
            if not before.is_fully_replicated:
                value = whole(before)
                if is_first():
                    kept.append((variable, before))
                    variable._value = value
        yield
    finally:
        for variable, before in kept:
            variable._value = before


def from_all(value: Any) -> list[Any]:
    """Return the values of all processes, in the order of the processes.

    Args:
        value: the value of this process, which can be pickled.
    """
    if _count == 1:
        return [value]
    from jax.experimental import multihost_utils

    own = np.frombuffer(pickle.dumps(value), np.uint8)
    sizes = np.asarray(multihost_utils.process_allgather(np.array(own.size)))
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: own.size] = own
    found = np.asarray(multihost_utils.process_allgather(padded))
    pairs = zip(found, sizes, strict=True)
    return [pickle.loads(row[:size].tobytes()) for row, size in pairs]


def check_equal(values: Mapping[str, Any]) -> None:
    """Raise a `ValueError` in all processes unless these values are equal in all of them.

    Args:
        values: dict from the name of a value to the value, whose text is compared. All
            processes have the same names.
    """
    if _count == 1:
        return
    from jax.experimental import multihost_utils

    digests = [hashlib.sha256(repr(value).encode()).digest() for value in values.values()]
    own = np.frombuffer(b"".join(digests), np.uint8).reshape(len(digests), -1)
    found = np.asarray(multihost_utils.process_allgather(own))
    different = (found != found[0]).any(axis=(0, 2))
    names = [name for name, differs in zip(values, different, strict=True) if differs]
    if names:
        own_values = ", ".join(f"{name}: {values[name]!r}" for name in names)
        raise ValueError(
            f"The {_count} processes of the run differ in {', '.join(names)}. Process "
            f"{_index} has {own_values}. Start all of them with the same command and "
            "versions, and the same files."
        )


def _join(jax, coordinator, processes, process):
    import keras

    if (backend := keras.backend.backend()) != "jax":
        raise ValueError(f"Several processes need KERAS_BACKEND=jax; it is {backend!r}.")
    automatic = coordinator == AUTO
    if not automatic:
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(
                f"The coordinator must be HOST:PORT or {AUTO}; received {coordinator!r}."
            )
        if process:
            _await(host, int(port))
    try:
        jax.distributed.initialize(
            None if automatic else coordinator,
            processes,
            process,
            initialization_timeout=CONNECTING_SECONDS,
            heartbeat_timeout_seconds=LOST_SECONDS,
        )
    except ValueError as error:
        if automatic:
            raise ValueError(
                f"--coordinator auto finds no cluster in the environment ({error}): pass "
                "--coordinator HOST:PORT, --processes and --process."
            ) from error
        raise


def _await(host, port):
    """Wait until the first process listens; JAX would abort if it never does."""
    end = time.monotonic() + CONNECTING_SECONDS
    while True:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise ConnectionError(
                    f"No process 0 answers at the coordinator {host}:{port} within "
                    f"{CONNECTING_SECONDS} s ({error}). Start it, and pass an address "
                    "and a free port of its host that this one can reach."
                ) from error
            time.sleep(0.2)


def loss_of_process(error: Exception) -> str | None:
    """Return the message for an error that another process caused, or None.

    If JAX itself notices first that a process was lost, it ends this one with a message
    of its own.

    Args:
        error: any error.
    """
    # JAX raises errors of several classes, depending on where it waits for the others.
    if _count == 1 or not str(error).startswith(_LOST):
        return None
    if str(error).startswith(_LOST_OR_OWN) and not _ABOUT_OTHERS.search(str(error)):
        return None
    text = str(error).splitlines()[0]
    return (
        f"Another process of the run ended, or could not be reached ({text}). Its own "
        "output has the reason. Start all processes again to resume the run."
    )
