"""Zip archives, which `.npz`, `.pth` and `.keras` files are."""

import os
import zipfile

from keras_vit.weights.tensor_file import exceeds_budget


def open_archive(path: str) -> zipfile.ZipFile:
    """Open a zip archive after checking its directory, before anything is expanded.

    Args:
        path: a regular file.

    Raises:
        ValueError: not a whole archive; it would expand to more than
            `keras_vit.weights.tensor_file.LARGEST_EXPANSION` times its size; two members
            have one name, or share the bytes that they are made of.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise ValueError(f"it is no whole zip archive ({error})") from None
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
            raise ValueError(f"{member.filename.removesuffix('.npy')} is in it twice")
        names.add(member.filename)
        if member.flag_bits & 1:
            raise ValueError(f"{member.filename} is encrypted")
    reason = exceeds_budget(sum(member.file_size for member in members), size)
    if reason:
        raise ValueError(reason)
    # Members that overlap read the same bytes again and again.
    stored = sum(member.compress_size for member in members)
    if stored > size:
        raise ValueError(f"its members claim {stored} of its {size} bytes")
