"""The command `keras-vit robustness`."""

import argparse
import pathlib

import numpy as np

from keras_vit.cli import command_line
from keras_vit.evaluation.robustness import robustness
from keras_vit.visualize import page, pictures


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Args:
        options: the parsed options.
    """
    with command_line.writing(options.workdir):
        config = command_line.trained_config(options)
        results = robustness(config)
        for name, row in results.items():
            print(f"{name}:")
            for part, accuracy in row.items():
                print(f"  {float(part):6.1%} of the patches  {accuracy:.2%}")
        if options.workdir is not None:
            _write(pathlib.Path(options.workdir), options.what, config, results)


def _write(directory, what, config, results):
    command_line.write_results(directory / "robustness.json", what, config, results)
    curves = {
        name: (np.asarray(list(row), "float64"), np.asarray(list(row.values())))
        for name, row in results.items()
    }
    chart = pictures.chart(curves, "part of the patches", "accuracy", lines=True)
    about = "Accuracy against the part of the patches, or of the area, that is changed."
    path = page.write_page(
        directory / "robustness.html",
        f"Robustness of {pathlib.Path(what).name}",
        [page.section("Accuracy on changed images", about, [chart])],
    )
    print(f"chart: {path}")
