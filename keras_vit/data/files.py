"""Files of data sets: missing ones, and changes of their contents."""

import concurrent.futures
import itertools
import os
import stat
import zlib
from collections.abc import Sequence

from keras_vit.data.host import tensorflow

# Largest total size of a set of files that is recorded with checksums, in bytes.
_CHECKSUM_BYTES = 2**26

# Larger sets are recorded with samples: blocks of this size of about so many files.
_BLOCK_BYTES = 2**12
_SAMPLED_FILES = 20_000


def missing(paths):
    """Return a sentence that names the first missing path, or None."""
    # TensorFlow's file API supports gs:// and the other file systems of TFDS.
    exists = tensorflow().io.gfile.exists
    for path in map(os.fspath, paths):
        if not exists(path):
            return f"{path} is missing. Restore it, or mount the disk that holds it."
    return None


def contents(files: Sequence[str]) -> list[str]:
    """Return a short text for each file that changes with the file's contents.

    If all files together have at most 64 MiB, the checksum covers their whole contents.
    Otherwise it covers the first, the middle and the last 4 KiB of each file, and in sets
    of 40,000 files or more only of about 20,000 of them. Other changes that keep the
    size of a file are not detected.

    Args:
        files: paths.

    Returns:
        The size of each file, followed by a checksum, which begins with `~` if it covers
        only a part of the file. `"missing"` for a file that does not exist.
    """
    # Use threads, because every call waits for the server on network file systems.
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        sizes = list(pool.map(_size, files, chunksize=64))
        if sum(size or 0 for size in sizes) <= _CHECKSUM_BYTES:
            return list(pool.map(_checksum, files, sizes))
        # Powers of two and sizes select the same files if some are added or moved.
        stride = 2 ** max((len(files) // _SAMPLED_FILES).bit_length() - 1, 0)
        return list(pool.map(_sampled, files, sizes, itertools.repeat(stride)))


def _size(file):
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _checksum(file, size):
    if size is None:
        return "missing"
    try:
        with open(file, "rb") as opened:
            return f"{size} {zlib.crc32(opened.read()):08x}"
    except OSError:
        return f"{size} unreadable"


def _sampled(file, size, stride):
    if size is None:
        return "missing"
    if size % stride:
        return str(size)
    checksum = 0
    try:
        with open(file, "rb", buffering=0) as opened:
            for start in (0, (size - _BLOCK_BYTES) // 2, size - _BLOCK_BYTES):
                opened.seek(max(start, 0))
                checksum = zlib.crc32(opened.read(_BLOCK_BYTES), checksum)
    except OSError:
        return f"{size} ~unreadable"
    return f"{size} ~{checksum:08x}"
