"""Exports appear whole or not at all."""

import contextlib
import os
import pathlib
import tempfile


@contextlib.contextmanager
def staged(target):
    """A directory beside `target`, which is gone in the end.

    `place` something in it at the target, or leave without, and nothing is left behind,
    directories that had to be made included.
    """
    made = [path for path in target.parents if not path.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Beside the target, so that the last step is a rename on one file system.
        with tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as staging:
            yield pathlib.Path(staging)
    except BaseException:
        with contextlib.suppress(OSError):  # Something else has come to lie there.
            for path in made:
                path.rmdir()
        raise


def place(written, target):
    """Gives what was written its final name."""
    if os.path.lexists(target):
        raise FileExistsError(
            f"{target} appeared during the export and was left as it is: export to "
            "another place, or another version."
        )
    os.rename(written, target)
