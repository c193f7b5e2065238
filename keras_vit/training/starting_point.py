"""Lookup of what a command starts from: a config, a checkpoint or a run."""

import dataclasses
import pathlib

from keras_vit.training import config as configs


def checkpoint_file(path: str) -> str:
    """Return the checkpoint at a path: for the directory of a run, its best model.

    Args:
        path: a checkpoint, or the directory of a run.
    """
    return f"{path}/best.keras" if is_run(pathlib.Path(path)) else path


def run_of(path: str) -> pathlib.Path | None:
    """Return the directory of the run that a checkpoint belongs to, or None.

    Args:
        path: a checkpoint, or the directory of a run.
    """
    for directory in (pathlib.Path(path), pathlib.Path(path).parent):
        if is_run(directory):
            return directory
    return None


def is_run(path: pathlib.Path) -> bool:
    """Return True if a directory contains a training run.

    Args:
        path: the directory.
    """
    return (path / "config.json").is_file() and (path / "environment.json").is_file()


def is_best(checkpoint: str) -> bool:
    """Return whether a checkpoint is a run, or the file that stands for it.

    Args:
        checkpoint: a checkpoint, or the directory of a run.
    """
    return pathlib.Path(checkpoint_file(checkpoint)).name == "best.keras"


def config_of(what: str, otherwise: configs.Config) -> configs.Config:
    """Return the config for the name of a config, a config file or a checkpoint.

    Args:
        what: name of a config, a Python or JSON file, or a checkpoint.
        otherwise: config for checkpoints that do not belong to a run.

    Returns:
        The config. For a checkpoint, `model` has only `weights`, set to the checkpoint,
        and there is no teacher; everything else comes from its run or from `otherwise`.
    """
    if configs.is_config(what):
        return configs.load(what)
    directory = run_of(what)
    file = checkpoint_file(what)
    if directory is None and not _may_be_checkpoint(what):
        return configs.load(what)  # Raises an error that lists the configs.
    base = otherwise
    if directory is not None:
        base = configs.load(str(directory / "config.json"))
    return dataclasses.replace(
        base,
        model=configs.Model(weights=file),
        distillation=configs.Distillation(),
    )


def _may_be_checkpoint(what):
    import keras_vit

    known = what in keras_vit.checkpoints() or what.startswith("hf://")
    return known or pathlib.Path(what).exists() or "/" in what
