"""The command `keras-vit sweep`."""

import argparse

from keras_vit.cli import command_line
from keras_vit.training import config as configs
from keras_vit.training.objectives import objective_class
from keras_vit.training.sweep import first_sentence, parse, sweep


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Args:
        options: the parsed options.
    """
    with command_line.writing(options.workdir):
        config = configs.load(options.what)
        config = configs.override(config, command_line.settings(options))
        grid = parse(options.grid) or config.grid
        rows = sweep(config, grid, options.workdir, allow_failures=True)
    watched = objective_class(config).watched.removeprefix("val_")
    names = (f"val_{watched}", f"test_{watched}", "val_loss")
    shown = [name for name in dict.fromkeys(names) if name in rows[0]]
    width = max(len(row["run"]) for row in rows)
    print(f"\n{'run':{width}}  " + "  ".join(f"{name:>13}" for name in shown))
    for row in rows:
        if "failed" in row:
            values = f"failed: {first_sentence(row['failed'])}"
        else:
            values = "  ".join(f"{row[name]:13.4f}" for name in shown)
        print(f"{row['run']:{width}}  {values}")
