"""Training objectives: the model to train, its loss, and the part that is saved."""

from collections.abc import Sequence
from typing import Any

from keras_vit.training import config as configs
from keras_vit.training.objectives.adaptive import AdaptiveClassification, check_adaptive
from keras_vit.training.objectives.classification import (
    Classification,
    FlexibleClassification,
)
from keras_vit.training.objectives.distilled import DistilledClassification
from keras_vit.training.objectives.other_labels import MultiLabel, Regression
from keras_vit.training.objectives.pixels import Pixels
from keras_vit.training.objectives.self_distillation import Dino
from keras_vit.training.objectives.without_labels import Autoencoding, MaskedPatches

OBJECTIVES: dict[str, Any] = {
    "classification": Classification,
    "masked_patch_prediction": MaskedPatches,
    "mae": Autoencoding,
    "pixels": Pixels,
    "dino": Dino,
}


# Objectives of `"classification"` for images that do not have one class each.
LABELS: dict[str, Any] = {"multi": MultiLabel, "regression": Regression}


def objective(config: configs.Config, names: Sequence[str]) -> Any:
    """Return the training objective of a config.

    Args:
        config: config of the run.
        names: names of the classes of the training set, in the order of the labels.

    Raises:
        ValueError: `config.objective` is unknown.
    """
    if config.objective not in OBJECTIVES:
        raise ValueError(
            f"objective must be one of {', '.join(map(repr, OBJECTIVES))}; received "
            f"{config.objective!r}."
        )
    _check_lora(config)
    if config.distillation.teacher is not None:
        _check_distillation(config)
        return DistilledClassification(config, names)
    if config.adaptive.ponder_weight is not None:
        check_adaptive(config)
        return AdaptiveClassification(config, names)
    labels = config.data.labels
    if labels != "single" and config.objective == "classification":
        if config.flexible.patch_sizes:
            raise ValueError(
                "flexible.patch_sizes requires data.labels='single'; received "
                f"{labels!r}."
            )
        return LABELS[labels](config, names)
    if not config.flexible.patch_sizes:
        return OBJECTIVES[config.objective](config, names)
    if config.objective != "classification" or config.resolutions:
        raise ValueError(
            "flexible.patch_sizes requires objective='classification' and no "
            f"resolutions; received {config.objective!r} and {config.resolutions}."
        )
    return FlexibleClassification(config, names)


def objective_class(config: configs.Config) -> Any:
    """Return a class with the `watched` metric of a config and its best value.

    Args:
        config: config whose objective is known.
    """
    if config.objective == "classification" and config.data.labels in LABELS:
        return LABELS[config.data.labels]
    return OBJECTIVES[config.objective]


def _check_lora(config):
    if config.lora.rank is None:
        return
    if config.objective != "classification" or config.model.weights is None:
        raise ValueError(
            f"lora.rank={config.lora.rank} requires objective='classification' and "
            f"model.weights; received {config.objective!r} and {config.model.weights!r}. "
            "LoRA adapts a trained model: use the command keras-vit finetune."
        )


def _check_distillation(config):
    if config.objective != "classification" or config.data.labels != "single":
        raise ValueError(
            f"distillation.teacher={config.distillation.teacher!r} requires "
            "objective='classification' and data.labels='single'; received "
            f"{config.objective!r} and {config.data.labels!r}."
        )
