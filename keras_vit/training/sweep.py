"""Sweeps: one run for each combination of values of a config."""

import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_vit.training import config as configs
from keras_vit.training import runs
from keras_vit.training.run_directory import write_text


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
        A row for each run: `run`, and what `runs.train` returns; the best on
        validation first.
    """
    rows, combined = [], combinations(config, grid)
    for number, (name, one) in enumerate(combined.items(), 1):
        print(f"\n[{number}/{len(combined)}] {name}", flush=True)
        directory = pathlib.Path(workdir, name)
        done = directory / "results.json"
        if done.exists():
            results = json.loads(done.read_text())
        else:
            results = runs.train(one, str(directory))
            keras.backend.clear_session()
        rows.append({"run": name, **results})
    watched = "val_accuracy" if "val_accuracy" in rows[0] else "val_loss"
    rows.sort(key=lambda row: row[watched], reverse=watched == "val_accuracy")
    write_text(pathlib.Path(workdir, "sweep.json"), json.dumps(rows, indent=1))
    return rows
