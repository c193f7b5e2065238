"""Find near duplicates and unusual images in folders, by the features of a model.

keras-vit neighbors CHECKPOINT IMAGE [IMAGE ...] --workdir DIR

CHECKPOINT is the directory of a run (its best model) or anything that
`keras_vit.load_checkpoint` reads. IMAGE is an image file or a folder of them.

DIR/neighbors.html shows pairs of near duplicates, the images that are least similar to
all others, and a map on which similar images are close to each other; it needs no other
file. DIR/duplicates.csv lists all pairs.

Example:

  keras-vit neighbors vit_s14.dinov2_lvd142m_518 photographs/ --workdir neighbors
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
        "neighbors", __doc__, "CHECKPOINT", "directory for the page and the list"
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--neighbors", type=int, default=5, help="default: %(default)s")
    parser.add_argument(
        "--duplicates",
        type=float,
        default=0.95,
        metavar="SIMILARITY",
        help="smallest cosine similarity of near duplicates (default: %(default)s)",
    )
    parser.add_argument(
        "--block",
        type=int,
        metavar="N",
        help="use the features of block N (default: the input of the head)",
    )
    options = parser.parse_args(words)
    if options.neighbors < 1:
        parser.error(f"--neighbors must be 1 or more; received {options.neighbors}.")
    if options.workdir is None:
        parser.error("--workdir is required")
    return options
