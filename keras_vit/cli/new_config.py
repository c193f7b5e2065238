"""The command `keras-vit new-config`."""

import argparse

from keras_vit.cli import command_line
from keras_vit.training.config_source import source_of


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Args:
        options: the parsed options.
    """
    with command_line.reported():
        print(source_of(options.name), end="")
