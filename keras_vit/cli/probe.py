"""The command `keras-vit probe`."""

import argparse
import pathlib

from keras_vit.cli import command_line
from keras_vit.evaluation.linear_probe import linear_probe
from keras_vit.training.image_sets import check_data


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Args:
        options: the parsed options.
    """
    with command_line.writing(options.workdir):
        config = command_line.evaluation_config(options)
        check_data(config, command_line.settings(options))
        results = linear_probe(config, options.block, options.features)
        what = config.model.weights or f"{options.what}, random weights"
        print(f"{what}, test accuracy of a linear probe:")
        for name, row in results.items():
            print(f"  {name:8} {row['accuracy']:.2%}")
        if options.workdir is not None:
            path = pathlib.Path(options.workdir, "linear_probe.json")
            command_line.write_results(path, what, config, results)
