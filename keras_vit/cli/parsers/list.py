"""Arguments of `keras-vit list`."""

import argparse
from collections.abc import Sequence


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command.

    Args:
        words: the arguments of the command.
    """
    parser = argparse.ArgumentParser(
        prog="keras-vit list",
        description="List the published checkpoints that load by name.",
        epilog="example: keras-vit list dinov3",
    )
    parser.add_argument(
        "pattern",
        nargs="?",
        help="part of the names or families to list; * stands for any text",
    )
    return parser.parse_args(words)
