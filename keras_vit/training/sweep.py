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
from keras_vit.training.image_sets import open_parts
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
    config: configs.Config,
    grid: Mapping[str, Sequence[Any]],
    workdir: str,
    allow_failures: bool = False,
) -> list[dict[str, Any]]:
    """Train all combinations of values in a grid, except runs that are finished.

    A run that is finished and whose duration or early stopping has changed resumes, as it
    does with `runs.train`. A run that diverges does not end the sweep. It has no results,
    so the next sweep with this directory resumes it from its last checkpoint.

    Args:
        config: config of all runs.
        grid: dict from keys of the config to the values to try.
        workdir: directory of the sweep, with a subdirectory for each run. `sweep.json`
            there has the return value, with the runs that failed.
        allow_failures: whether to return the other runs if some of them fail.

    Returns:
        List of dicts, one for each run, sorted by the validation result with the best
        first: `run`, the name of the run, and the results of `runs.train`. Runs that
        failed are last, with the reason as `failed` instead of the results.

    Raises:
        FileExistsError: a subdirectory holds the run of another config.
        ValueError: the data sets or the duration of a run are impossible; or, after the
            last run, all runs failed, or some and `allow_failures=False`.
    """
    rows, combined = [], combinations(config, grid)
    for name, one in combined.items():
        _check_same(pathlib.Path(workdir, name), one)
    _check_plans(combined)
    for number, (name, one) in enumerate(combined.items(), 1):
        print(f"\n[{number}/{len(combined)}] {name}", flush=True)
        directory = pathlib.Path(workdir, name)
        results = _results(directory, one)
        if results is None:
            results = _trained(one, directory)
        rows.append({"run": name, **results})
    failed = [row for row in rows if "failed" in row]
    rows = [row for row in rows if "failed" not in row]
    kind = objective_class(config)
    rows.sort(key=kind.watched_value, reverse=kind.better is max)
    path = pathlib.Path(workdir, "sweep.json")
    write_text(path, json.dumps(rows + failed, indent=1))
    if failed and not (rows and allow_failures):
        reasons = [f"{row['run']}: {first_sentence(row['failed'])}" for row in failed]
        raise ValueError(
            f"{len(failed)} of {len(combined)} runs in {workdir} failed. "
            f"{'. '.join(reasons)}. {path} has the full reasons. Leave these values out, "
            "or use other settings in another directory, such as a smaller "
            "optimization.learning_rate."
        )
    return rows + failed


def first_sentence(reason: str) -> str:
    """Return the reason of a failed run without the details, such as its images.

    Args:
        reason: the value of `failed` in a row of `sweep`.
    """
    return reason.partition(". ")[0]


def _check_plans(combined):
    """Raise a ValueError if the plan of a run is impossible."""
    opened: dict[str, Any] = {}
    for name, config in combined.items():
        data = repr(config.data)
        if data not in opened:
            opened[data] = open_parts(config.data)
        try:
            runs.make_plan(config, opened[data])
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def _trained(config, directory):
    """Train a run and return its results, or the reason as `failed`.

    A run fails if it diverges, or if its model or its optimizer cannot be built.
    """
    try:
        return runs.train(config, str(directory))
    except (runs.Diverged, ValueError) as failure:
        print(f"failed: {failure}", flush=True)
        return {"failed": str(failure)}
    finally:
        keras.backend.clear_session()


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
