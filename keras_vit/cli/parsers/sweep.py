r"""Train a config once for every combination of some values, and compare the runs.

keras-vit sweep CONFIG --workdir DIR [--grid KEY=VALUE,VALUE ...] [--set ...]

Each run has its own directory in DIR. Run the same command again to resume an interrupted
sweep; other settings need another DIR. Without --grid, the grid of the config is used. At
the end, a table of all runs is printed and written to sweep.json, the best on validation
first. Examples:

  keras-vit sweep digits_vit --workdir runs/positions \
      --grid model.arguments.positions=none,learned,learned_2d,relative --grid seed=0,1,2
  keras-vit sweep vit_b16_cifar10 --workdir runs/cifar10 \
      --set model.weights=ViT-B_16.npz
"""

import argparse
from collections.abc import Sequence

from keras_vit.cli.parsers import shared


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command.

    Args:
        words: the arguments of the command.
    """
    parser = shared.parser("sweep", __doc__, "CONFIG", "directory of the runs")
    parser.add_argument("--grid", action="append", default=[], metavar="KEY=VALUE,VALUE")
    options = shared.parse_with_devices(parser, words)
    if options.workdir is None:
        parser.error("--workdir is required")
    return options
