r"""Runs a config once for each combination of some values, and compares.

python -m recipes.sweep CONFIG --workdir DIR [--grid KEY=VALUE,VALUE ...] [--set ...]

Each run has a directory of its own below DIR; run again, the sweep goes on where it was.
Without --grid, the grid of the config itself: that of the paper's fine-tuning. At the end
a table of all runs, the best on validation first; sweep.json has it too. Examples:

  python -m recipes.sweep digits_vit --workdir runs/positions \
      --grid model.arguments.positions=none,learned,learned_2d,relative --grid seed=0,1,2
  python -m recipes.sweep vit_b16_cifar10 --workdir runs/cifar10 \
      --set model.weights=ViT-B_16.npz
"""

import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from recipes import command_line, training
from recipes import config as configs
from recipes.run_directory import write_text


def parse(grid: Sequence[str]) -> dict[str, list[str]]:
    """Values by key.

    Args:
        grid: texts `key=value,value`.

    Raises:
        ValueError: a text of another form.
    """
    parsed = {}
    for text in grid:
        key, equals, values = text.partition("=")
        if not equals or not values:
            raise ValueError(f"--grid takes key=value,value,...; received {text!r}.")
        parsed[key.strip()] = [value.strip() for value in values.split(",")]
    return parsed


def combinations(
    config: configs.Config, grid: Mapping[str, Sequence[Any]]
) -> dict[str, configs.Config]:
    """A config for each combination of values, by the name of its run.

    Raises:
        ValueError: there is nothing to combine; a key or a value that a config does not
            take.
    """
    if not grid:
        raise ValueError("The config has no grid: --grid key=value,value,...")
    found = {}
    for values in itertools.product(*grid.values()):
        settings = [f"{key}={v}" for key, v in zip(grid, values, strict=True)]
        name = ",".join(
            f"{key.rpartition('.')[2]}={value}"
            for key, value in zip(grid, values, strict=True)
        )
        found[name.replace("/", "_")] = configs.override(config, settings)
    return found


def sweep(
    config: configs.Config, grid: Mapping[str, Sequence[Any]], workdir: str
) -> list[dict[str, Any]]:
    """Runs all combinations, or those that are not done.

    Returns:
        A row for each run: `run`, and what `training.train` returns; the best on
        validation first.
    """
    rows, runs = [], combinations(config, grid)
    for number, (name, one) in enumerate(runs.items(), 1):
        print(f"\n[{number}/{len(runs)}] {name}", flush=True)
        directory = pathlib.Path(workdir, name)
        done = directory / "results.json"
        if done.exists():
            results = json.loads(done.read_text())
        else:
            results = training.train(one, str(directory))
            keras.backend.clear_session()
        rows.append({"run": name, **results})
    watched = "val_accuracy" if "val_accuracy" in rows[0] else "val_loss"
    rows.sort(key=lambda row: row[watched], reverse=watched == "val_accuracy")
    write_text(pathlib.Path(workdir, "sweep.json"), json.dumps(rows, indent=1))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = command_line.parser(
        "recipes.sweep", __doc__, "CONFIG", "directory of the runs"
    )
    parser.add_argument("--grid", action="append", default=[], metavar="KEY=VALUE,VALUE")
    options = parser.parse_args(arguments)
    if options.workdir is None:
        parser.error("--workdir is needed")
    with command_line.writing(options.workdir):
        config = configs.load(options.what)
        config = configs.override(config, command_line.settings(options))
        rows = sweep(config, parse(options.grid) or config.grid, options.workdir)
    shown = [n for n in ("val_accuracy", "test_accuracy", "val_loss") if n in rows[0]]
    width = max(len(row["run"]) for row in rows)
    print(f"\n{'run':{width}}  " + "  ".join(f"{name:>13}" for name in shown))
    for row in rows:
        print(f"{row['run']:{width}}  " + "  ".join(f"{row[n]:13.4f}" for n in shown))


if __name__ == "__main__":
    command_line.run_as_process(main)
