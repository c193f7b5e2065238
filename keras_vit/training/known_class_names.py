"""Class names that are stored with a run, a checkpoint or an export."""

import json
import pathlib
from typing import Any

from keras_vit.training import config as configs


def of_run(checkpoint: str) -> list[str] | None:
    """Return the class names of the run that a checkpoint belongs to, or None.

    Args:
        checkpoint: the directory of a run, or a file in it.
    """
    for directory in (pathlib.Path(checkpoint), pathlib.Path(checkpoint).parent):
        names = directory / "classes.json"
        if (directory / "config.json").is_file() and names.is_file():
            return json.loads(names.read_text())
    return None


def known(model: Any, config: configs.Config) -> list[str] | None:
    """Return the class names that a model was trained with, or None if unknown.

    They are looked up in `model.arguments.class_names` of the config, where None counts
    as an answer, then in the model or export itself, then in the classes.json of its run.

    Args:
        model: a `keras_vit` model or an `exported_model.Export`.
        config: config with the checkpoint that the model was loaded from.
    """
    if "class_names" in config.model.arguments:
        return config.model.arguments["class_names"]
    names = model.get_config().get("class_names")
    if names is None and config.model.weights is not None:
        names = of_run(config.model.weights)
    return names
