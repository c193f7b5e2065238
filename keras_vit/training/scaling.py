"""Scaling studies: runs on fractions of a data set, and laws of their results."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_vit.atomic_files import write_text
from keras_vit.training import config as configs
from keras_vit.training import cost, pictures
from keras_vit.training.power_law import FEWEST, PowerLaw, fit
from keras_vit.training.runs import make_plan
from keras_vit.training.sweep import combinations, sweep

# Name of the law of the loss among the laws of the networks.
COMPUTE = "compute"


def study(
    families: Mapping[str, configs.Config],
    workdir: str,
    fractions: Sequence[float],
    steps: Sequence[int] = (),
    seeds: Sequence[int] = (0,),
) -> dict[str, Any]:
    """Train networks on fractions of their data, and fit power laws to the results.

    Runs that are finished are not repeated, and an interrupted one resumes. Writes
    `scaling.json` with all points and fits, and `scaling.png` with two figures: the error
    against the number of images, and the loss against the compute of training.

    Args:
        families: dict from the name of each network to its config.
        workdir: directory of the study, with a subdirectory for each network.
        fractions: values of `data.fraction`.
        steps: durations of the runs in steps; empty for that of the configs. The configs
            must set `checkpoint_steps` then: epochs of a fraction last only a few steps.
        seeds: seeds of the runs.

    Returns:
        The contents of scaling.json: `points`, one dict for each run; and `laws`, a dict
        with the fit of the error for each network, by its name, and with that of the loss
        of the best runs for their compute as `compute`. Instead of a fit, it may hold the
        reason why there is none.

    Raises:
        FileExistsError: a subdirectory holds the run of another config.
        ValueError: an objective is not classification, a fraction is out of its range, a
            network is called `compute`, or `checkpoint_steps` is missing.
    """
    if COMPUTE in families:
        raise ValueError(
            f"A network cannot be called {COMPUTE!r}, the name of the law of the loss in "
            "scaling.json. Rename its config."
        )
    for name, config in families.items():
        if config.objective != "classification" or config.data.labels != "single":
            raise ValueError(
                f"A scaling study needs images with one class each; {name} has "
                f"objective={config.objective!r}, data.labels={config.data.labels!r}."
            )
    grid: dict[str, list[Any]] = {"data.fraction": list(fractions)}
    if steps:
        grid["steps"] = list(steps)
        if found := [n for n, config in families.items() if not config.checkpoint_steps]:
            raise ValueError(
                f"Runs of {', '.join(map(str, steps))} steps on fractions of a set need "
                f"a fixed interval, and {found[0]} evaluates after every epoch: set "
                "checkpoint_steps to a number that divides them (--set "
                "checkpoint_steps=N)."
            )
        for name, config in families.items():
            interval = config.checkpoint_steps or 1
            if others := [n for n in steps if n % interval]:
                raise ValueError(
                    f"{name} evaluates every {interval} steps, so a run "
                    f"cannot have {others[0]} steps: set checkpoint_steps to a number "
                    "that divides all of them (--set checkpoint_steps=N)."
                )
    grid["seed"] = list(seeds)
    # All runs are checked before the first one starts.
    described = {
        name: _descriptions(combinations(config, grid))
        for name, config in families.items()
    }
    points = []
    for name, config in families.items():
        for row in sweep(config, grid, str(pathlib.Path(workdir, name))):
            figures = _figures(row)
            points.append({"network": name, **described[name][row["run"]], **figures})
    laws = {name: _law_of_error(points, name) for name in families}
    laws[COMPUTE] = _law_of_compute(points)
    results = {"points": points, "laws": {k: summary(law) for k, law in laws.items()}}
    write_text(pathlib.Path(workdir, "scaling.json"), json.dumps(results, indent=1))
    pictures.scaling(points, laws, compute, pathlib.Path(workdir, "scaling.png"))
    return results


def summary(law: PowerLaw | str) -> Any:
    """Return a law as values of JSON, with its prediction beyond the points.

    Args:
        law: a fit, or the reason why there is none.
    """
    if isinstance(law, str):
        return law
    low, high = law.interval(law.beyond)
    prediction = {
        "x": law.beyond,
        "value": float(law(law.beyond)),
        "interval": [float(low), float(high)],
    }
    return {**law.summary(), "extrapolation": prediction}


def _descriptions(combined):
    """Return the images, parameters and operations of each run, by its name."""
    found: dict[str, dict[str, Any]] = {}
    costs: dict[str, Any] = {}
    for name, config in combined.items():
        plan = make_plan(config)
        if not costs:  # The runs differ in nothing that changes the network.
            model = plan.objective.build()
            operations = cost.TRAINING * cost.forward_operations(model)
            costs = {
                "parameters": model.count_params(),
                "operations_per_step": operations * config.batch_size,
            }
            keras.backend.clear_session()
        images = plan.sources["train"].num_examples
        found[name] = {"images": images, "seed": config.seed, **costs}
    return found


def _figures(row):
    """Return what a study needs of the results of a run.

    The error is that of the best checkpoint. The loss is the last one, which belongs to
    the compute of the whole run.
    """
    last = row["last"]
    return {
        "run": row["run"],
        "steps": last["step"],
        "val_accuracy": row["val_accuracy"],
        "error": 1 - row.get("test_accuracy", row["val_accuracy"]),
        "loss": last["val_loss"],
    }


def compute(point: Mapping[str, Any]) -> float:
    """Return the floating-point operations of a whole run.

    Args:
        point: an entry of `points` of scaling.json.
    """
    return float(point["steps"] * point["operations_per_step"])


def _law_of_error(points, network):
    """Return the fit of the error over the number of images."""
    best: dict[tuple[int, int], Any] = {}
    for point in points:
        if point["network"] == network:
            # Validation, not the error of the test set, chooses among the durations.
            key = point["images"], point["seed"]
            known = best.get(key, point)
            best[key] = max(known, point, key=lambda p: p["val_accuracy"])
    errors = [point["error"] for point in best.values()]
    return _fitted([images for images, _ in best], errors, "fractions")


def _law_of_compute(points):
    """Return the fit of the lowest losses over the compute, on all images."""
    most = max(point["images"] for point in points)
    whole = [point for point in points if point["images"] == most]
    whole.sort(key=lambda point: (compute(point), point["loss"]))
    frontier: list[Any] = []
    for point in whole:
        if not frontier or point["loss"] < frontier[-1]["loss"]:
            frontier.append(point)
    losses = [point["loss"] for point in frontier]
    return _fitted(list(map(compute, frontier)), losses, "steps or networks")


def _fitted(x, y, missing):
    if len(set(x)) < FEWEST:
        return (
            f"{len(set(x))} different points; a power law needs {FEWEST} or more: add "
            f"{missing}."
        )
    return fit(x, y)
