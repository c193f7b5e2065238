"""The command `keras-vit pretrain`."""

import argparse

from keras_vit.cli import command_line, photos
from keras_vit.training import config as configs
from keras_vit.training import runs


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Args:
        options: the parsed options.
    """
    if options.data is None:
        command_line.train(options, configs.load, runs.train)
    else:
        with command_line.reported(options.workdir):
            photos.run("pretrain", options, configs.load(options.what))
