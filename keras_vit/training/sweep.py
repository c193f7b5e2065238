"""Sweeps: one training run for each combination of values in a grid."""

import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_vit.atomic_files import write_text
from keras_vit.training import config as configs
from keras_vit.training import runs
from keras_vit.training.objectives import objective_class
from keras_vit.training.run_directory import STATES, changes, same_results


def parse(grid: Sequence[str]) -> dict[str, list[str]]:
    """Parse the arguments of `--grid` to a dict of values by key.

    Args:
        grid: strings `key=value,value`.

    Raises:
        ValueError: a string has another form.
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
    """Return the config for each combination of values in a grid.

    Args:
        config: config of all runs.
        grid: dict from keys of the config to the values to try.

    Returns:
        Dict from the name of each run to its config.

    Raises:
        ValueError: the grid is empty, or it has an unknown key or an invalid value.
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
    """Train all combinations of values in a grid, except runs that are finished.

    A run that is finished and whose duration or early stopping has changed resumes, as it
    does with `runs.train`.

    Args:
        config: config of all runs.
        grid: dict from keys of the config to the values to try.
        workdir: directory of the sweep, with a subdirectory for each run.

    Returns:
        List of dicts, one for each run, sorted by the validation result with the best
        first: `run`, the name of the run, and the results of `runs.train`.

    Raises:
        FileExistsError: a subdirectory holds the run of another config.
    """
    rows, combined = [], combinations(config, grid)
    for name, one in combined.items():
        _check_same(pathlib.Path(workdir, name), one)
    for number, (name, one) in enumerate(combined.items(), 1):
        print(f"\n[{number}/{len(combined)}] {name}", flush=True)
        directory = pathlib.Path(workdir, name)
        results = _results(directory, one)
        if results is None:
            results = runs.train(one, str(directory))
            keras.backend.clear_session()
        rows.append({"run": name, **results})
    kind = objective_class(config)
    rows.sort(key=lambda row: row[kind.watched], reverse=kind.better is max)
    write_text(pathlib.Path(workdir, "sweep.json"), json.dumps(rows, indent=1))
    return rows


def _check_same(directory, config):
    """Raise an error if a directory has the checkpoint of a run of another config."""
    if not any((directory / state).exists() for state in STATES):
        return
    if changed := changes(*_configs(directory, config)):
        raise FileExistsError(
            f"{directory} holds the run of another config ({'; '.join(changed)}). Choose "
            f"another --workdir, or remove {directory} to train it again."
        )


def _results(directory, config):
    """Return the results of a finished run of exactly this config, or None."""
    path = directory / "results.json"
    if not path.exists():
        return None
    if not same_results(*_configs(directory, config)):
        return None
    return json.loads(path.read_text())


def _configs(directory, config):
    """Return the config of the run in a directory and another config, as dicts."""
    before = configs.to_dict(configs.load(str(directory / "config.json")))
    after = configs.to_dict(config)
    if after["data"]["scale"] is None:  # A run derives it from the training set.
        after["data"]["scale"] = before["data"]["scale"]
    return before, after
