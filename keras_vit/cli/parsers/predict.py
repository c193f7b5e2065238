"""Classify image files.

keras-vit predict CHECKPOINT IMAGE [IMAGE ...] [--workdir DIR] [--top 5]

CHECKPOINT is the directory of a run (its best model) or anything that
`keras_vit.load_checkpoint` reads. IMAGE is an image file, or a folder of them. The class
names are those of the run, or ImageNet's for 1,000 classes. An image that cannot be read
is reported and skipped. Scores are the outputs of the model: probabilities in percent if
it ends in a softmax or a sigmoid, otherwise plain numbers. A model that predicts values
prints all of them.

Examples:

  keras-vit predict runs/flowers photographs/ --workdir predictions
  keras-vit predict vit_b16.augreg_in21k_ft_in1k_224 dog.jpg

--workdir DIR writes predictions.csv, one line for each image and class, or for an image
that cannot be read the reason; and predictions.html, a page with a small picture of every
image and its best classes.
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
        "predict", __doc__, "CHECKPOINT", "directory for predictions.csv and a page"
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--top", type=int, default=5, help="default: %(default)s")
    options = parser.parse_args(words)
    if options.top < 1:
        parser.error(f"--top must be 1 or more; received {options.top}.")
    return options
