"""Staging directories that make exports appear complete or not at all."""

import contextlib
import errno
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator

import filelock

PREFIX = ".export-"
_LOCK = ".lock"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def staged(directory: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a temporary directory inside `directory`, and remove it afterwards.

    Call `place` to move a file or directory out of it. Everything else is removed, as
    are, after an error, the directories that had to be created. SIGTERM and SIGHUP raise
    `SystemExit` inside the context. Staging directories that killed processes left in
    `directory` are removed first.

    Args:
        directory: path, created if it does not exist.

    Raises:
        OSError: the disk is full.
    """
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        with _terminable(), _locked_staging(directory) as staging:
            yield staging
    except BaseException as error:
        for path in made:
            with contextlib.suppress(OSError):  # Another process may have used it.
                path.rmdir()
        if isinstance(error, Exception) and disk_is_full(error):
            raise OSError(
                errno.ENOSPC,
                f"No space left on the disk of {directory}; nothing was written. Make "
                "room, or export to another disk",
            ) from error
        raise


@contextlib.contextmanager
def _locked_staging(directory):
    # The operating system releases the lock when this process ends, even if killed.
    lock = None
    while lock is None:
        directory.mkdir(parents=True, exist_ok=True)
        _sweep(directory)
        # Another process may sweep the new directory away before its lock is held.
        with contextlib.suppress(FileNotFoundError):
            staging = pathlib.Path(tempfile.mkdtemp(prefix=PREFIX, dir=directory))
            lock = _lock(staging)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        lock.release()


def _sweep(directory):
    """Remove the staging directories of processes that have ended."""
    for staging in directory.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if (lock := _lock(staging)) is not None:
                shutil.rmtree(staging, ignore_errors=True)
                lock.release()


def _lock(staging):
    """Return the lock of a staging directory, or None if another process holds it."""
    lock = filelock.FileLock(staging / _LOCK)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return None
    if not (staging / _LOCK).exists():
        lock.release()
        return None
    return lock


@contextlib.contextmanager
def _terminable():
    """Raise `SystemExit` for signals that would end the process without cleanup."""
    names = ("SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        numbers = []  # Only the main thread receives signals.
    numbers = [n for n in numbers if signal.getsignal(n) is signal.SIG_DFL]

    def stop(number, frame):
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)  # The cleanup must not be interrupted.
        sys.exit(128 + number)

    for number in numbers:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def place(written: pathlib.Path, targets: Iterable[pathlib.Path]) -> pathlib.Path:
    """Move a file or directory to the first of `targets` that does not exist yet.

    Existing files are never overwritten, even if two processes finish at the same time.

    Args:
        written: path of a file or a directory.
        targets: paths on the same file system.

    Returns:
        The target that was used.

    Raises:
        FileExistsError: all targets exist already.
    """
    for target in targets:
        with contextlib.suppress(FileExistsError):
            (_place_directory if written.is_dir() else _place_file)(written, target)
            return target
    raise FileExistsError(
        f"{target} appeared meanwhile and was left as it is: choose another place, or "
        "another version of an export."
    )


@contextlib.contextmanager
def placed(written: pathlib.Path, target: pathlib.Path) -> Iterator[None]:
    """Move a file, if it exists, to `target`, and remove it there after an error.

    Args:
        written: path of a file.
        target: path on the same file system.

    Raises:
        FileExistsError: `target` exists already.
    """
    if not written.exists():
        yield
        return
    place(written, [target])
    try:
        yield
    except BaseException:
        target.unlink()
        raise


def _place_directory(written, target):
    if os.path.lexists(target):
        raise FileExistsError(target)
    try:
        # The rename fails if `target` has become a file or a nonempty directory.
        os.rename(written, target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise FileExistsError(target) from error
        raise


def _place_file(written, target):
    try:
        os.link(written, target)  # Unlike a rename, this fails if `target` exists.
    except FileExistsError:
        raise
    except OSError:  # The file system has no hard links: reserve the name.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(written, target)


def disk_is_full(error: BaseException | None) -> bool:
    """Return True if an error, or one that caused it, reports that the disk is full.

    The text is checked too, because HDF5 raises errors without a number and TensorFlow
    has its own error classes.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            return True
        if any(os.strerror(number) in str(error) for number in _DISK_FULL):
            return True
        error = error.__cause__ or error.__context__
    return False
