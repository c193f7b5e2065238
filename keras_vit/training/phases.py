"""Phases of a run: growing images and gradual unfreezing."""

import dataclasses
import math
from typing import Any

import keras

from keras_vit import processes
from keras_vit.training import compilation
from keras_vit.training.callbacks import given_optimizer


@dataclasses.dataclass(frozen=True)
class Phase:
    """Part of a run that trains the same weights at one image size.

    Attributes:
        first: number of the last checkpoint before the phase.
        last: number of the last checkpoint in the phase.
        side: side of the images in pixels; None for the model's own size.
        lowest: the lowest layer that trains, as in `optimization.unfreeze`; None or
            `"all"` for everything.
    """

    first: int
    last: int
    side: int | None = None
    lowest: str | None = None


def make_phases(config: Any, intervals: int) -> tuple[Phase, ...]:
    """Return the phases of a run, in order.

    Args:
        config: config of the run.
        intervals: number of checkpoints in the run.

    Raises:
        ValueError: the fractions of `resolutions` or `optimization.unfreeze` do not add
            up to 1 or are too small, or the objective does not support them.
    """
    parts = {
        "resolutions": config.resolutions,
        "optimization.unfreeze": config.optimization.unfreeze,
    }
    for name, pairs in parts.items():
        if pairs and config.objective != "classification":
            raise ValueError(
                f"{name} requires objective='classification'; received "
                f"{config.objective!r}."
            )
    for _, side in _pairs("resolutions", config.resolutions):
        if not isinstance(side, int) or side < 1:
            raise ValueError(
                "The second values of resolutions are sides in pixels, ints above 0; "
                f"received {side!r}."
            )
    sides, lowest = (
        _ends(name, _pairs(name, pairs), intervals) for name, pairs in parts.items()
    )
    phases: list[Phase] = []
    for last in sorted({*sides, *lowest}):
        first = phases[-1].last if phases else 0
        values = [
            next(value for end, value in ends.items() if end >= last)
            for ends in (sides, lowest)
        ]
        phases.append(Phase(first, last, *values))
    return tuple(phases)


def _pairs(name, pairs):
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError(
            f"{name} must be pairs of a fraction and a value; received {pairs!r}."
        )
    return pairs


def _ends(name, pairs, intervals):
    """Return a dict from the last checkpoint of each part of a run to its value."""
    if not pairs:
        return {intervals: None}
    fractions = [fraction for fraction, _ in pairs]
    if min(fractions) <= 0 or not math.isclose(sum(fractions), 1.0, abs_tol=1e-6):
        raise ValueError(
            f"The parts of {name} must be above 0 and add up to 1; received {pairs}."
        )
    ends: dict[int, Any] = {}
    done = 0.0
    for fraction, value in pairs:
        done += fraction
        last = round(done * intervals)
        if last == max(ends, default=0):
            raise ValueError(
                f"{name}={pairs}: {fraction} of {intervals} checkpoints rounds to none. "
                "Set a smaller checkpoint_steps."
            )
        ends[last] = value
    return ends


def described(phase: Phase) -> str:
    """Return a text about a phase.

    Args:
        phase: the phase.
    """
    texts = []
    if phase.side is not None:
        texts.append(f"at {phase.side}x{phase.side} pixels")
    if phase.lowest is not None:
        lowest = "everything" if phase.lowest == "all" else f"{phase.lowest} and above"
        texts.append(f"with {'the head' if phase.lowest == 'head' else lowest} trained")
    return ", ".join(texts)


def of_size(model: keras.Model, side: int | None) -> keras.Model:
    """Return the model for square images of another size, or itself.

    Args:
        model: the model.
        side: side of the images in pixels; None for the model's own size.
    """
    shape = model.input_shape[1:] if side is None else (side, side, model.input_shape[-1])
    return model if shape == model.input_shape[1:] else model.resized(shape)


def next_model(model: keras.Model, phase: Phase, plan: Any) -> keras.Model:
    """Return the model of the next phase, with the state of the training so far.

    The position embeddings are resized to another image size, together with their
    moments and EMA in the optimizer. Weights that start to train have new moments, and
    their EMA starts with their values.

    Args:
        model: the compiled model of the phase before.
        phase: the next phase.
        plan: the `runs.Plan` of the run.
    """
    before = _named(model.optimizer.variables)
    grown = of_size(model, phase.side)
    compilation.compile(grown, plan, phase)
    if grown is not model:
        _copy_seeds(model, grown)
    own = {
        path: processes.whole(weight) for path, weight in model.weights_by_path().items()
    }
    resized = [
        path
        for path, weight in grown.weights_by_path().items()
        if own[path].shape != tuple(weight.shape)
    ]
    given_optimizer(grown).start_averages()
    for name, variable in _named(grown.optimizer.variables).items():
        if name not in before:
            continue
        if before[name].shape == variable.shape:
            variable.assign(before[name])
            continue
        value = processes.whole(before[name])
        # Position tables of the same shape are all resized in the same way.
        path = next(path for path in resized if own[path].shape == value.shape)
        variable.assign(model.resized_values({**own, path: value}, grown)[path])
    return grown


def _named(variables):
    """Return a dict of the variables of an optimizer by name.

    The name of the optimizer, which differs between two of one class, is left out. The
    optimizers of mixed_float16, one inside the other, have counters of the same name.
    """
    found: dict[tuple[str, int], Any] = {}
    for variable in variables:
        name = variable.path.split("/", 1)[-1]
        found[name, sum(name == other for other, _ in found)] = variable
    return found


def _copy_seeds(model, grown):
    """Copy the states of random number generators, which are not weights."""
    for before, after in zip(_seeds(model), _seeds(grown), strict=True):
        after.assign(before)


def _seeds(model):
    weights = {id(weight) for weight in model.weights}
    return [v for v in model.non_trainable_variables if id(v) not in weights]
