"""The network of a run, built from its config."""

import functools
from typing import Any

import keras

import keras_vit
from keras_vit.choices import check_choice
from keras_vit.models.application import NETWORKS
from keras_vit.models.checkpoint import NoHeadError
from keras_vit.training import config as configs
from keras_vit.training.distillation_token import with_distillation_token


def constructor(config: configs.Config) -> Any:
    """Return the constructor that `model.architecture` names.

    It is one of `keras_vit`, or of `keras.applications` as a `KerasApplication`.

    Args:
        config: config of the run.

    Raises:
        ValueError: there is no such constructor.
    """
    name = config.model.architecture
    if name in NETWORKS:
        return functools.partial(keras_vit.KerasApplication, name)
    found = getattr(keras_vit, name, None)
    if not callable(found):
        raise ValueError(
            f"model.architecture={name!r} is neither a constructor of keras_vit, such as "
            f"ViTS16 or T2TViT14, nor one of these of keras.applications: "
            f"{', '.join(NETWORKS)}."
        )
    return found


def network(config: configs.Config, **settled: Any) -> keras.Model:
    """Build the network of a config, from its checkpoint or with random weights.

    Args:
        config: config with the architecture or the checkpoint, and the arguments.
        **settled: arguments that override those of the config.
    """
    arguments = {"dtype": config.dtype, **config.model.arguments, **settled}
    arguments = {k: tuple(v) if type(v) is list else v for k, v in arguments.items()}
    stem = arguments.get("stem")
    if isinstance(stem, dict):  # JSON has no objects.
        arguments["stem"] = _stem(**stem)
    if config.distillation.warm_start:
        _check_warm_start(config)
        arguments["distillation_token"] = False
    if config.model.weights is None:
        return constructor(config)(**arguments)
    if arguments["include_top"]:
        arguments = {"head": "new", **arguments}
    else:
        arguments["head"] = "drop"
    model = keras_vit.load_checkpoint(config.model.weights, **arguments)
    return with_distillation_token(model) if config.distillation.warm_start else model


def _check_warm_start(config):
    token = config.model.arguments.get("distillation_token", False)
    if config.model.weights is None or not token:
        raise ValueError(
            "distillation.warm_start=True requires model.weights, a checkpoint without a "
            "distillation token, and model.arguments.distillation_token=True; received "
            f"{config.model.weights!r} and {token}."
        )


def _stem(kind="ResNetStem", **arguments):
    """Return the stem that a config describes.

    Args:
        kind: class in `keras_vit.layers`.
        **arguments: arguments of the class.
    """
    kinds = ("ResNetStem", "ConvTokenizer")
    check_choice("model.arguments.stem: kind", kind, kinds)
    return getattr(keras_vit.layers, kind)(**arguments)


def classifier(config: configs.Config, **settled: Any) -> keras.Model:
    """Build the network of a config with the classifier of its checkpoint.

    Args:
        config: config with the checkpoint, and the arguments.
        **settled: arguments that override those of the config.

    Raises:
        ValueError: the checkpoint has no classifier.
    """
    try:
        return network(config, include_top=True, head="keep", **settled)
    except NoHeadError:
        raise ValueError(
            f"{config.model.weights} has no classifier, only features. Fit a classifier "
            "to them (keras-vit probe), fine-tune the model (keras-vit finetune), or "
            "export it to serve its features (keras-vit export)."
        ) from None


def activation(config: configs.Config) -> str | None:
    """Return the activation that matches the loss of a run, or None if there is none.

    Args:
        config: config of the run.
    """
    if config.data.labels != "single":
        return "sigmoid" if config.data.labels == "multi" else None
    named = config.optimization.loss in ("softmax", "sigmoid")
    return config.optimization.loss if named else None
