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

import argparse
from collections.abc import Sequence

from keras_vit.cli.parsers import shared


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command.

    Args:
        words: the arguments of the command.
    """
    parser = shared.parser(
        "robustness", __doc__, "CHECKPOINT", "directory for the results"
    )
    return shared.parse_with_devices(parser, words)
