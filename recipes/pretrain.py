"""Trains a model from a config; run again, it goes on where it was.

python -m recipes.pretrain CONFIG --workdir DIR [--set key=value ...]

CONFIG is a name of recipes/configs, or the config.json of a run. Examples:

  python -m recipes.pretrain digits_vit --workdir runs/digits
  python -m recipes.pretrain digits_vit --workdir runs/small --set epochs=5
"""

import argparse
import sys

from recipes import config as configs
from recipes import training


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.pretrain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", help=f"one of {', '.join(configs.names())}; or a path")
    parser.add_argument("--workdir", required=True, help="directory of the run")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="another value for a key of the config, as optimization.learning_rate=3e-4",
    )
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="insist on a run to go on with, or on none (default: go on if there is one)",
    )
    options = parser.parse_args(arguments)
    try:
        config = configs.override(configs.load(options.config), options.settings)
        training.train(config, options.workdir, options.resume)
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
