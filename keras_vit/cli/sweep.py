"""The command `keras-vit sweep`."""

import argparse

from keras_vit.cli import command_line
from keras_vit.training import config as configs
from keras_vit.training.sweep import parse, sweep


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Args:
        options: the parsed options.
    """
    with command_line.writing(options.workdir):
        config = configs.load(options.what)
        config = configs.override(config, command_line.settings(options))
        rows = sweep(config, parse(options.grid) or config.grid, options.workdir)
    shown = [n for n in ("val_accuracy", "test_accuracy", "val_loss") if n in rows[0]]
    width = max(len(row["run"]) for row in rows)
    print(f"\n{'run':{width}}  " + "  ".join(f"{name:>13}" for name in shown))
    for row in rows:
        print(f"{row['run']:{width}}  " + "  ".join(f"{row[n]:13.4f}" for n in shown))
