"""Lock that allows only one command at a time to write to a directory."""

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
_TRIES = 100


@contextlib.contextmanager
def locked(directory: str | os.PathLike) -> Iterator[None]:
    """Lock a directory for this process, and create it if it does not exist.

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
    try:
        lock = _lock(directory)
    except filelock.Timeout:
        raise FileExistsError(
            f"{directory} is in use by {_holder(directory)}. Wait until it ends or stop "
            "it, or choose another --workdir."
        ) from None
    try:
        # A separate file, because some versions of filelock truncate the lock file.
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


def _lock(directory):
    """Create a directory, acquire its lock and return the lock."""
    file = directory / LOCK
    for attempt in range(_TRIES):
        lock = filelock.FileLock(file)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            os.close(os.open(file, os.O_CREAT))  # Its time stays, unlike with touch().
            before = file.stat().st_ino
            lock.acquire(blocking=False)
            # The previous holder may have removed the file that is locked now, and
            # another process may have created and locked a new one.
            if file.stat().st_ino == before:
                return lock
        except FileNotFoundError:  # The previous holder has just removed it.
            if attempt == _TRIES - 1:
                raise
        lock.release()
    raise filelock.Timeout(str(file))


def _holder(directory):
    try:
        holder = json.loads((directory / HOLDER).read_text())
        command = pathlib.Path(holder["command"][0]).stem
        return f"process {holder['pid']} on host {holder['host']} ({command})"
    except (OSError, ValueError, LookupError, TypeError):
        return "another process"  # The file is being written or has been removed.
