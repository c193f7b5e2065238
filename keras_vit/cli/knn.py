r"""Measure how well the nearest neighbors in the space of features tell the class.

keras-vit knn CONFIG_OR_CHECKPOINT [--workdir DIR] [--neighbors 20] [--block N]
    [--set key=value ...]

The images of `data.test` are compared with those of `data.train`: the most similar ones
vote for their classes. Nothing is trained. A checkpoint is the directory of a run (its
best model) or anything that `keras_vit.load_checkpoint` reads.

Example:

  keras-vit knn vit_s14.dinov2_lvd142m_518 --data-dir tfds --set data.train=tfds:cifar10 \
      --set data.test=tfds:cifar10:test --set model.arguments.input_shape=[112,112,3]

--workdir DIR writes nearest_neighbors.json. --features DIR keeps the features, so that
they are computed once for several values of --neighbors.

Reference: DINO (arXiv:2104.14294) section 4.1.
"""

import pathlib
from collections.abc import Sequence

from keras_vit.cli import command_line
from keras_vit.evaluation.nearest_neighbors import nearest_neighbors
from keras_vit.training import config as configs


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = command_line.parser(
        "knn", __doc__, "CONFIG_OR_CHECKPOINT", "directory for nearest_neighbors.json"
    )
    parser.add_argument("--neighbors", type=int, default=20, help="default: %(default)s")
    command_line.add_features(parser)
    options = parser.parse_args(arguments)
    if options.neighbors < 1:
        parser.error(f"--neighbors must be 1 or more; received {options.neighbors}.")
    with command_line.writing(options.workdir):
        config = command_line.evaluation_config(options)
        configs.check_data(config, command_line.settings(options))
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
