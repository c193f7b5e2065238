r"""Train networks on fractions of a data set, and fit laws to their errors and losses.

keras-vit scaling CONFIG [CONFIG ...] --workdir DIR [--fractions F,F] [--steps N,N]
    [--seeds N,N] [--set ...]

Every network is trained on every fraction of its training set. Run the same command again
to resume an interrupted study. It writes scaling.json and scaling.png: the error of each
network against the number of images with a saturating power law,
error = floor + scale * (images / x0) ** -exponent, and the loss against the compute of
training; give several --steps for the latter. Intervals of 95 % are from a bootstrap of
the runs. Values beyond the measured ones are extrapolated: they hold only if the law
does.

Examples:

  keras-vit scaling cifar10_scaling_vit cifar10_scaling_bit --workdir runs/scaling \
      --fractions 0.01,0.03,0.1,0.3,1 --seeds 0,1,2
  keras-vit scaling digits_vit --workdir runs/digits_scaling --steps 50,100,200,400 \
      --set checkpoint_steps=50
"""

import argparse
from collections.abc import Sequence

from keras_vit.cli.parsers import shared


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command.

    Args:
        words: the arguments of the command.
    """
    parser = shared.parser("scaling", __doc__, "CONFIG", "directory of the study")
    parser.add_argument("others", nargs="*", metavar="CONFIG")
    parser.add_argument(
        "--fractions",
        type=_numbers(float),
        default=[0.1, 0.2, 0.5, 1.0],
        metavar="F,F",
        help="fractions of the training images (default: 0.1,0.2,0.5,1)",
    )
    parser.add_argument(
        "--steps",
        type=_numbers(int),
        default=[],
        metavar="N,N",
        help="durations of the runs in steps (default: that of the config); needs "
        "checkpoint_steps",
    )
    parser.add_argument(
        "--seeds",
        type=_numbers(int),
        default=[0],
        metavar="N,N",
        help="seeds of the runs (default: 0)",
    )
    options = shared.parse_with_devices(parser, words)
    if options.workdir is None:
        parser.error("--workdir is required")
    return options


def _numbers(kind):
    def numbers(text):
        return [kind(part) for part in text.split(",")]

    return numbers
