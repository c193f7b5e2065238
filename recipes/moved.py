"""Earlier names of the commands of `keras-vit`, which work for one more release."""

import os
import sys


def run(command: str) -> None:
    """Replace this process, `python -m recipes.NAME ...`, with `keras-vit COMMAND ...`.

    Args:
        command: name of the command of `keras-vit`.
    """
    words = sys.orig_argv
    place = words.index("-m") + 1
    print(
        f"`python -m {words[place]}` is now `keras-vit {command}`; the next release "
        "removes the old name.",
        file=sys.stderr,
        flush=True,
    )
    program = [sys.executable, *words[1:place], "keras_vit", command]
    os.execv(sys.executable, [*program, *words[place + 1 :]])
