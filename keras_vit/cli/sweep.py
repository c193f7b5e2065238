r"""Train a config once for every combination of some values, and compare the runs.

keras-vit sweep CONFIG --workdir DIR [--grid KEY=VALUE,VALUE ...] [--set ...]

Each run has its own directory in DIR. Run the same command again to resume an interrupted
sweep. Without --grid, the grid of the config is used. At the end, a table of all runs is
printed and written to sweep.json, the best on validation first. Examples:

  keras-vit sweep digits_vit --workdir runs/positions \
      --grid model.arguments.positions=none,learned,learned_2d,relative --grid seed=0,1,2
  keras-vit sweep vit_b16_cifar10 --workdir runs/cifar10 \
      --set model.weights=ViT-B_16.npz
"""

from collections.abc import Sequence

from keras_vit.cli import command_line
from keras_vit.training import config as configs
from keras_vit.training.sweep import parse, sweep


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = command_line.parser("sweep", __doc__, "CONFIG", "directory of the runs")
    parser.add_argument("--grid", action="append", default=[], metavar="KEY=VALUE,VALUE")
    options = parser.parse_args(arguments)
    if options.workdir is None:
        parser.error("--workdir is required")
    with command_line.writing(options.workdir):
        config = configs.load(options.what)
        config = configs.override(config, command_line.settings(options))
        rows = sweep(config, parse(options.grid) or config.grid, options.workdir)
    shown = [n for n in ("val_accuracy", "test_accuracy", "val_loss") if n in rows[0]]
    width = max(len(row["run"]) for row in rows)
    print(f"\n{'run':{width}}  " + "  ".join(f"{name:>13}" for name in shown))
    for row in rows:
        print(f"{row['run']:{width}}  " + "  ".join(f"{row[n]:13.4f}" for n in shown))
