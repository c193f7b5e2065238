"""The command `keras-vit finetune`."""

import argparse

from keras_vit.cli import command_line, photos
from keras_vit.training import config as configs
from keras_vit.training import runs
from keras_vit.training.own_images import base_config, check_weights


def train(config: configs.Config, workdir: str, resume: bool | None = None) -> dict:
    """Train from a checkpoint with `runs.train`.

    Args:
        config: config of the run.
        workdir: directory of the run.
        resume: whether to require (True) or to forbid (False) an existing run.

    Returns:
        The results of `runs.train`.

    Raises:
        ValueError: the config has no `model.weights`.
    """
    check_weights(config)
    return runs.train(config, workdir, resume)


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Args:
        options: the parsed options.
    """
    if options.data is None:
        command_line.train(options, base_config, train)
    else:
        with command_line.reported(options.workdir):
            photos.run("finetune", options, base_config(options.what))
