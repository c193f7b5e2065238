"""Safe opening of zip archives: `.npz`, `.pth` and `.keras` files."""

import os
import zipfile

from keras_vit.weights.tensor_file import exceeds_budget


def open_archive(path: str) -> zipfile.ZipFile:
    """Open a zip archive after checking its directory.

    The checks read only the directory of the archive and decompress nothing.

    Args:
        path: path of a regular file.

    Returns:
        An open `zipfile.ZipFile`.

    Raises:
        ValueError: if the archive is damaged or encrypted, would expand to more than
            `keras_vit.weights.tensor_file.LARGEST_EXPANSION` times its size, or has
            members with the same name or with overlapping data.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise ValueError(f"the zip archive is damaged or incomplete ({error})") from None
    try:
        _check_members(archive.infolist(), os.path.getsize(path))
    except ValueError:
        archive.close()
        raise
    return archive


def _check_members(members, size):
    names = set()
    for member in members:
        if member.filename in names:
            raise ValueError(f"it contains {member.filename.removesuffix('.npy')} twice")
        names.add(member.filename)
        if member.flag_bits & 1:
            raise ValueError(f"{member.filename} is encrypted")
    reason = exceeds_budget(sum(member.file_size for member in members), size)
    if reason:
        raise ValueError(reason)
    # A zip bomb can exceed the size of its file by letting many members share the same
    # compressed bytes.
    stored = sum(member.compress_size for member in members)
    if stored > size:
        raise ValueError(f"its members claim {stored} bytes; it has {size}")
