r"""Measure the accuracy of a nearest-neighbor classifier on a model's features.

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

import argparse
from collections.abc import Sequence

from keras_vit.cli.parsers import shared


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command.

    Args:
        words: the arguments of the command.
    """
    parser = shared.parser(
        "knn", __doc__, "CONFIG_OR_CHECKPOINT", "directory for nearest_neighbors.json"
    )
    parser.add_argument("--neighbors", type=int, default=20, help="default: %(default)s")
    shared.add_features(parser)
    options = shared.parse_with_devices(parser, words)
    if options.neighbors < 1:
        parser.error(f"--neighbors must be 1 or more; received {options.neighbors}.")
    return options
