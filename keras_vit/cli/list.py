"""The command `keras-vit list`."""

import argparse

from keras_vit.weights.registry import checkpoints


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Args:
        options: the parsed options.
    """
    print(repr(checkpoints(options.pattern)))
