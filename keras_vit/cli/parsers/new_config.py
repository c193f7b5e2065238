"""Print a config as a Python file of your own, to change and to train.

keras-vit new-config NAME > my_config.py

NAME is the name of a config, or the config.json of a run. The file holds every value
that is not a default, each below a comment with its meaning. Examples:

  keras-vit new-config digits_vit > my_config.py
  keras-vit pretrain my_config.py --workdir runs/mine
"""

import argparse
from collections.abc import Sequence


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command.

    Args:
        words: the arguments of the command.
    """
    parser = argparse.ArgumentParser(
        prog="keras-vit new-config",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME")
    return parser.parse_args(words)
