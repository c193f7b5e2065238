"""The command `keras-vit knn`."""

import argparse
import pathlib

from keras_vit.cli import command_line
from keras_vit.evaluation.nearest_neighbors import PARTS, nearest_neighbors
from keras_vit.training.image_sets import check_data


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Args:
        options: the parsed options.
    """
    with command_line.writing(options.workdir):
        config = command_line.evaluation_config(options)
        check_data(config, command_line.settings(options), PARTS)
        results = nearest_neighbors(
            config, options.neighbors, options.block, options.features
        )
        print(
            f"{results['accuracy']:.2%} of {results['test']} images by the "
            f"{results['neighbors']} nearest of {results['reference']}"
        )
        if options.workdir is not None:
            what = config.model.weights or f"{options.what}, random weights"
            path = pathlib.Path(options.workdir, "nearest_neighbors.json")
            command_line.write_results(path, what, config, results)
