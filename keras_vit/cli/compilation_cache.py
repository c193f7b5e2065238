"""Cache on disk of the programs that JAX compiles, for the commands.

JAX has such a cache, but writes its entries in place: a process that is killed leaves
half an entry, which JAX neither loads nor replaces, and two processes may write the same
entry. Here, JAX reads and writes a directory that belongs to one process. It starts with
hard links to the shared entries, and each new entry is linked into the shared directory
when it is complete. The name of a shared entry begins with the hash of its contents, so
that damaged entries are deleted before JAX reads them:

    ~/.cache/keras_vit/jax/processes/0b4c.../jit_train_step-0e3a...-cache
    ~/.cache/keras_vit/jax/processes/0b4c....lock
    ~/.cache/keras_vit/jax/jaxlib-0.10.2-93b1c7d0/5f1d...-jit_train_step-0e3a...-cache
"""

import atexit
import contextlib
import functools
import hashlib
import importlib
import os
import pathlib
import platform
import shutil
import sys
import time
import uuid
import warnings
import zlib

import filelock

from keras_vit.cli import cpu

# "off", or another directory than the default.
VARIABLE = "KERAS_VIT_COMPILATION_CACHE"
# Above these limits, the entries that were used least recently are deleted. Every command
# reads and links all entries of its version, which takes a fraction of a second at the
# limits. The training step of a ViT-B/16 on a CPU is an entry of 0.4 MB.
MAX_BYTES = 256_000_000
MAX_ENTRIES = 4000
# JAX sends this event after it has written an entry.
_COMPILED = "/jax/core/compile/backend_compile_duration"
_SETTINGS = {
    # Small programs are cached too, because compiling all of them takes a second.
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
    "jax_compilation_cache_max_size": -1,
    # Otherwise the path of XLA's own cache for GPUs is hashed into the name of each
    # entry, and no process finds the entries of another.
    "jax_persistent_cache_enable_xla_caches": "none",
}
_HASH_LENGTH = 32
_STARTING_SECONDS = 60  # A process may have created its lock, but not yet acquired it.


def start() -> None:
    """Cache what JAX compiles from here on; do nothing under other backends.

    A cache that the user chose with JAX's own settings remains in use. If the directory
    cannot be used, a warning is printed, and nothing is cached.
    """
    import keras

    setting = os.environ.get(VARIABLE, "")
    if keras.config.backend() != "jax" or setting == "off":
        return
    import jax

    if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return
    try:
        root = pathlib.Path(setting).expanduser() if setting else _default_root()
        own = _own_directory(root / "processes")
        shared = root / _version()
        shared.mkdir(mode=0o700, exist_ok=True)
        _evict(root)
        _link_entries(shared, own)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home directory.
        _warn(error)
        return
    for name, value in _SETTINGS.items():
        jax.config.update(name, value)
    jax.config.update("jax_compilation_cache_dir", str(own))
    # JAX warns about each entry that does not fit on the disk.
    warnings.filterwarnings("ignore", "Error writing persistent compilation cache")
    publisher = _Publisher(own, shared)
    jax.monitoring.register_event_duration_secs_listener(publisher)


class _Publisher:
    """Listener of JAX's events that links new entries into the shared directory.

    Args:
        own: the directory that JAX writes to.
        shared: the directory of the shared entries of this version.
    """

    def __init__(self, own, shared):
        self.own, self.shared = own, shared
        self.published = set(os.listdir(own))
        self.failed = False

    def __call__(self, event: str, duration_secs: float, **_: str | int) -> None:
        if event != _COMPILED or self.failed:
            return
        try:
            for name in set(os.listdir(self.own)) - self.published:
                self._publish(name)
        except OSError as error:
            self.failed = True
            _warn(error)

    def _publish(self, name):
        entry = self.own / name
        data = entry.read_bytes()
        try:
            _compression().decompress(data)
        except Exception:  # Each library has its own class of errors.
            return  # The disk is full, or another thread is writing this entry.
        with contextlib.suppress(FileExistsError):
            os.link(entry, self.shared / f"{_hash(data)}-{name}")
        self.published.add(name)


def _default_root():
    caches = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(caches, "keras_vit", "jax")


def _version():
    """Return the name of the directory for this version of jaxlib and this CPU."""
    import jaxlib

    kind = platform.machine() + platform.processor() + cpu.features()
    return f"jaxlib-{jaxlib.__version__}-{_hash(kind.encode())[:8]}"


def _own_directory(processes):
    """Create and return a directory that is removed when this process ends.

    The process holds a lock. The operating system releases it even after SIGKILL, and
    the next command removes the directory.
    """
    processes.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in processes.glob("*.lock"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STARTING_SECONDS:
                _remove(path.with_suffix(""), filelock.FileLock(path))
    own = processes / uuid.uuid4().hex
    lock = filelock.FileLock(own.with_suffix(".lock"))
    lock.acquire(blocking=False)
    own.mkdir(mode=0o700)
    atexit.register(_remove, own, lock)
    return own


def _remove(own, lock):
    """Remove the directory of a process, unless another process holds its lock."""
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:  # A subclass of OSError.
        return
    shutil.rmtree(own, ignore_errors=True)
    pathlib.Path(lock.lock_file).unlink(missing_ok=True)
    lock.release(force=True)


def _evict(root):
    """Delete the least recently used entries of all versions above the limits."""
    found = []
    for path in root.glob("jaxlib-*/*"):
        with contextlib.suppress(FileNotFoundError):  # Another process deleted it.
            status = path.stat()
            # Many file systems update the time of access once a day, some never.
            used = max(status.st_atime, status.st_mtime)
            found.append((used, status.st_size, path))
    total = 0
    for position, (_, size, path) in enumerate(sorted(found, reverse=True)):
        total += size
        if total > MAX_BYTES or position >= MAX_ENTRIES:
            path.unlink(missing_ok=True)


def _link_entries(shared, own):
    """Link the shared entries into the directory of a process; delete damaged ones."""
    for entry in shared.iterdir():
        expected, _, name = entry.name.partition("-")
        with contextlib.suppress(FileNotFoundError):  # Another process deleted it.
            with open(entry, "rb", opener=_open_unnoticed) as file:
                intact = _hash(file.read()) == expected
            if intact and not (own / name).exists():
                os.link(entry, own / name)
            else:  # Two processes that compiled at the same time published it twice.
                entry.unlink()


def _open_unnoticed(path, flags):
    """Open a file without changing its time of access."""
    return os.open(path, flags | getattr(os, "O_NOATIME", 0))


def _hash(data):
    return hashlib.sha256(data).hexdigest()[:_HASH_LENGTH]


@functools.cache
def _compression():
    """Return the module with which JAX compresses entries."""
    for name in ("compression.zstd", "zstandard"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    return zlib


def _warn(error):
    print(
        f"warning: compiled programs are not cached ({error}). Set {VARIABLE} to a "
        'directory that can be written, or to "off".',
        file=sys.stderr,
    )
