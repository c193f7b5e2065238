"""Files that are replaced when their new contents are complete."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

from keras_vit import processes

# Prefix of the names of files that are not complete.
PARTIAL = ".partial-"


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Replace a file atomically: yield a temporary path that is renamed at the end.

    If the process is killed or an error is raised, the old file remains unchanged. Of
    several processes that train together, only the first one replaces files.

    Args:
        path: the file to replace or to create.

    Yields:
        The path to write to; it is synced to disk before it is renamed.
    """
    if not processes.is_first():
        with tempfile.TemporaryDirectory() as elsewhere:
            yield pathlib.Path(elsewhere, path.name)
        return
    temporary = path.with_name(f"{PARTIAL}{path.name}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: pathlib.Path, text: str) -> None:
    r"""Write a text file atomically, in UTF-8.

    File names may have bytes that are not UTF-8: they become escapes such as `\udce9`.

    Args:
        path: the file.
        text: its contents.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
