"""Trains a model from a config; run again, it goes on where it was.

python -m recipes.pretrain CONFIG --workdir DIR [--set key=value ...]

CONFIG is a name of recipes/configs, a Python file that sets CONFIG (recipes.new_config
prints one), or the config.json of a run. Examples:

  python -m recipes.pretrain digits_vit --workdir runs/digits
  python -m recipes.pretrain digits_vit --workdir runs/small --set epochs=5
  python -m recipes.pretrain digits_vit --dry-run
"""

from collections.abc import Sequence

from recipes import command_line, training
from recipes import config as configs


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = command_line.parser(
        "recipes.pretrain", __doc__, "CONFIG", "directory of the run"
    )
    command_line.run(
        parser, arguments, lambda options: configs.load(options.what), training.train
    )


if __name__ == "__main__":
    command_line.run_as_process(main)
