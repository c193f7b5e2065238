"""Duration of a run: its number of steps, early stopping and extension."""

from typing import Any

from keras_vit.data.source import Source
from keras_vit.training import config as configs
from keras_vit.training.run_directory import RunDirectory

# Numbers of a config that are 1 or more, or None for a default.
POSITIVE = ("batch_size", "checkpoint_steps", "epochs", "steps", "steps_per_execution")


def intervals(config: configs.Config, train: Source) -> tuple[int, int]:
    """Return the number of batches between checkpoints and the number of checkpoints.

    Args:
        config: config of the run.
        train: the training set.

    Raises:
        ValueError: the training set is smaller than a batch, or a number is below 1.
    """
    for key in POSITIVE:
        value = getattr(config, key)
        if value is not None and value < 1:
            raise ValueError(f"{key} must be 1 or more; received {value}.")
    interval = config.checkpoint_steps
    if interval is None:
        interval = train.num_examples // config.batch_size
        if config.steps is not None:
            interval = min(interval, config.steps)
    if interval < 1:
        raise ValueError(
            f"batch_size={config.batch_size} is larger than the {train.num_examples} "
            f"images of {train.name!r}: set a smaller batch_size."
        )
    steps: float | None = config.steps
    if steps is None:
        steps = config.epochs * train.num_examples / config.batch_size
    return interval, max(round(steps / interval), 1)


def check_stopping(config: configs.Config) -> None:
    """Check `early_stopping`.

    Args:
        config: config of the run.

    Raises:
        ValueError: the number is below 1, the run has several phases, or its objective
            has no metric that could stop it.
    """
    patience = config.early_stopping
    if patience is None:
        return
    if patience < 1:
        raise ValueError(
            "early_stopping must be None or a number of checkpoints, 1 or more; "
            f"received {patience}."
        )
    if config.objective == "dino":
        raise ValueError(
            f"early_stopping={patience}: no metric shows progress with objective='dino'."
            " Remove early_stopping."
        )
    if config.resolutions or config.optimization.unfreeze:
        name = "resolutions" if config.resolutions else "optimization.unfreeze"
        raise ValueError(
            f"early_stopping={patience} would stop a run before the last part of {name}: "
            f"set early_stopping or {name}, not both."
        )


def check_longer(plan: Any, directory: RunDirectory) -> None:
    """Check that a run whose duration changes becomes longer.

    Args:
        plan: the `runs.Plan` of the run.
        directory: the directory of the run, locked.

    Raises:
        FileExistsError: the run would become shorter, or its phases or the steps between
            its checkpoints would change.
    """
    before = directory.duration_before()
    if not before or directory.before is None:
        return
    shown = ", ".join(f"{key}={value}" for key, value in before.items())
    now = ", ".join(f"{key}={getattr(plan.config, key)}" for key in before)
    if len(plan.phases) > 1:
        raise FileExistsError(
            f"{directory.path} holds a run with {shown}; this command has {now}. The "
            "parts of resolutions and optimization.unfreeze depend on the duration, so "
            "it cannot change: choose another --workdir."
        )
    interval, checkpoints = intervals(directory.before, plan.sources["train"])
    if plan.steps <= interval * checkpoints:
        raise FileExistsError(
            f"{directory.path} holds a run with {shown}; this command has {now}. A run "
            "can become longer, but not shorter: repeat the command with "
            f"{' '.join(f'--set {key}={value}' for key, value in before.items())} or "
            "more, or choose another --workdir."
        )
    if plan.interval != interval:
        raise FileExistsError(
            f"{directory.path} holds a run with {shown}, with {interval} steps from "
            f"checkpoint to checkpoint; with {now} there would be {plan.interval}. "
            "Choose another --workdir."
        )
