"""A lock that lets one command at a time write to a directory."""

import contextlib
import json
import os
import pathlib
import socket
import sys
from collections.abc import Iterator

import filelock

LOCK, HOLDER = ".lock", ".lock.json"
FILES = {LOCK, HOLDER}


@contextlib.contextmanager
def locked(directory: str | os.PathLike) -> Iterator[None]:
    """Hold a directory for this process, and create it where it does not exist.

    The operating system releases the lock when the process ends, even by SIGKILL, so no
    lock is ever stale. A directory created for a command that fails before it writes
    anything is removed again.

    Args:
        directory: path of the directory that the command writes to.

    Raises:
        FileExistsError: another process holds the directory.
    """
    directory = pathlib.Path(directory)
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(directory / LOCK)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise FileExistsError(
            f"{directory} is in use by {_holder(directory)}. Wait until it ends or stop "
            "it, or choose another --workdir."
        ) from None
    try:
        # Beside the lock and not in it: some versions of filelock empty their file.
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "command": sys.argv}
        (directory / HOLDER).write_text(json.dumps(holder))
        yield
    finally:
        with contextlib.suppress(OSError):
            (directory / HOLDER).unlink()
            if made and os.listdir(directory) == [LOCK]:
                (directory / LOCK).unlink()
                for path in made:
                    path.rmdir()
        lock.release()


def _holder(directory):
    try:
        holder = json.loads((directory / HOLDER).read_text())
        command = pathlib.Path(holder["command"][0]).stem
        return f"process {holder['pid']} on host {holder['host']} ({command})"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"  # It has only just started, or is about to end.
