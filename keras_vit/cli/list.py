"""The command `keras-vit list`."""

import argparse

from keras_vit.weights.registry import checkpoints


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
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
    print(repr(checkpoints(parser.parse_args(arguments).pattern)))
