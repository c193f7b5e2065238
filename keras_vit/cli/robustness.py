"""Measure the accuracy on images with dropped, shuffled and hidden patches.

keras-vit robustness CHECKPOINT [--workdir DIR] [--set key=value ...]

Images of `data.test` are changed after the preprocessing: a random part of the patches is
set to the mean color, or a part of the patches changes places, or a rectangle in the
center is set to the mean color. CHECKPOINT is the directory of a run (its best model) or
anything that `keras_vit.load_checkpoint` reads.

Example:

  keras-vit robustness runs/flowers --workdir robustness

--workdir DIR writes robustness.json and a chart, robustness.html.

Reference: Intriguing Properties of Vision Transformers (arXiv:2105.10497).
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from keras_vit.cli import command_line
from keras_vit.evaluation.robustness import robustness
from keras_vit.training import config as configs
from keras_vit.visualize import page, pictures


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = command_line.parser(
        "robustness", __doc__, "CHECKPOINT", "directory for the results"
    )
    options = parser.parse_args(arguments)
    with command_line.writing(options.workdir):
        config = command_line.evaluation_config(options)
        configs.check_data(config, command_line.settings(options))
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
