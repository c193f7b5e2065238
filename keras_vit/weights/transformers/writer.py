"""Writing of models as directories that transformers loads."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from keras_vit.weights.directory import (
    Directory,
    position_rows,
    require,
    write_tensors,
)
from keras_vit.weights.transformers.dinov2 import Dinov2Source
from keras_vit.weights.transformers.preprocessing import preprocessor_config
from keras_vit.weights.transformers.source import (
    ACTIVATIONS,
    BlockNames,
    TransformersSource,
)
from keras_vit.weights.transformers.vit import DeiTSource, IJepaSource, ViTSource

_LIBRARY = "transformers"
_HIDDEN_ACTS = {
    **{activation: name for name, activation in reversed(list(ACTIVATIONS.items()))},
    "gelu_tanh": "gelu_pytorch_tanh",
}


class _Family(NamedTuple):
    """A model of transformers.

    Attributes:
        source: reader of the family, which has the names of its tensors.
        model_type: str, the `model_type` in config.json.
        prefix: str, prefix of the names in the class with a classifier.
        classifier: str, name of the class with a classifier.
        backbone: str, name of the class for a model without one, or None for the class
            with a classifier and `num_labels=0`, because the backbone's own class has a
            pooler with weights that the model does not have.
        possible: dict from arguments to the values that the family has.
        settings: function from the model's config to the family's own settings.
        extra: function from the model's config to tensors that transformers needs and
            does not use in evaluation.
    """

    source: type[TransformersSource]
    model_type: str
    prefix: str
    classifier: str
    backbone: str | None
    possible: dict[str, tuple]
    settings: Callable[[dict[str, Any]], dict[str, Any]]
    extra: Callable[[dict[str, Any]], dict[str, np.ndarray]] = lambda config: {}


# Every family has these values only.
_COMMON: dict[str, tuple] = {
    "positions": ("learned",),
    "final_norm": ("before_pooling",),
    "representation_size": (None,),
    "norm": ("layer",),
    "mlp": ("plain",),
    "attention": (None,),
    "block": ("pre_norm",),
    "embedding_norm": (None,),
    "stem": (None,),
    "class_token_position": (True,),
    "qkv_bias": (True, False),
    "activation": tuple(_HIDDEN_ACTS),
}


def _vit_settings(config):
    return {"intermediate_size": config["mlp_dim"], "qkv_bias": config["qkv_bias"]}


def _dinov2_settings(config):
    height, width, _ = config["input_shape"]
    if height != width:
        raise ValueError(
            "DINOv2 in transformers takes its grid of positions for a square one; the "
            f"model has input_shape={config['input_shape']}, which transformers cannot "
            "express. Nothing was written."
        )
    ratio, rest = divmod(config["mlp_dim"], config["hidden_dim"])
    if rest:
        raise ValueError(
            "DINOv2 in transformers has an mlp_dim that is a multiple of hidden_dim="
            f"{config['hidden_dim']}; the model has {config['mlp_dim']}, which "
            "transformers cannot express. Nothing was written."
        )
    settings = {"mlp_ratio": ratio, "qkv_bias": config["qkv_bias"]}
    settings |= {"use_swiglu_ffn": False, "layerscale_value": config["layer_scale"]}
    if config["registers"]:
        return {**settings, "num_register_tokens": config["registers"]}
    return {**settings, "use_mask_token": False}


def _mask_token(config):
    return {"embeddings.mask_token": np.zeros((1, config["hidden_dim"]), "float32")}


def _family(config):
    """Return the family of transformers that has a model's tokens and LayerScale."""
    if config["layer_scale"] is not None:
        pooling = ("token_gap",) if config["include_top"] else ("token", None)
        possible = {"pooling": pooling, "distillation_token": (False,)}
        if config["registers"]:
            return _Family(
                Dinov2Source,
                "dinov2_with_registers",
                "dinov2_with_registers.",
                "Dinov2WithRegistersForImageClassification",
                "Dinov2WithRegistersModel",
                possible,
                _dinov2_settings,
                _mask_token,
            )
        return _Family(
            Dinov2Source,
            "dinov2",
            "dinov2.",
            "Dinov2ForImageClassification",
            "Dinov2Model",
            possible,
            _dinov2_settings,
        )
    if not config["class_token"]:
        return _Family(
            IJepaSource,
            "ijepa",
            "ijepa.",
            "IJepaForImageClassification",
            None,
            {
                "pooling": ("gap", None),
                "registers": (0,),
                "class_token_position": (True, False),
            },
            _vit_settings,
        )
    if config["distillation_token"] or config["registers"]:
        head = "WithTeacher" if config["distillation_token"] else ""
        return _Family(
            DeiTSource,
            "deit",
            "deit.",
            f"DeiTForImageClassification{head}",
            None,
            {"pooling": ("token", None), "registers": (int(not head),)},
            _vit_settings,
        )
    return _Family(
        ViTSource,
        "vit",
        "vit.",
        "ViTForImageClassification",
        None,
        {"pooling": ("token", None)},
        _vit_settings,
    )


def transformers_directory(model: Any) -> Directory:
    """Return the content of a directory that transformers loads.

    Args:
        model: a `keras_vit.ViT`, without LoRA and quantization.

    Raises:
        ValueError: if transformers cannot express the model.
    """
    config = model.resolved_config()
    family = _family(config)
    require(config, _LIBRARY, {**_COMMON, **family.possible})
    with_head = config["include_top"] or family.backbone is None
    prefix = family.prefix if with_head else ""
    # The oldest names, which every version of transformers loads.
    names = family.source.blocks[0]
    block = BlockNames(prefix + names.prefix, names.layers)
    config["position_rows"] = position_rows(
        config, with_registers=family.source is DeiTSource
    )
    pieces = family.source.network_pieces(config, prefix, block)
    tensors = write_tensors(model._values(), pieces, config)
    for name, tensor in family.extra(config).items():
        tensors[prefix + name] = tensor
    preprocessing = preprocessor_config(model.preprocessor, config["input_shape"])
    content = {
        "architectures": [family.classifier if with_head else family.backbone],
        "model_type": family.model_type,
        **_settings(config),
        **family.settings(config),
    }
    return Directory(
        tensors, {"config.json": content, "preprocessor_config.json": preprocessing}
    )


def _settings(config):
    """Return the settings that all families have."""
    height, width, channels = config["input_shape"]
    settings = {
        "hidden_size": config["hidden_dim"],
        "num_hidden_layers": config["num_layers"],
        "num_attention_heads": config["num_heads"],
        "hidden_act": _HIDDEN_ACTS[config["activation"]],
        "layer_norm_eps": config["layer_norm_epsilon"],
        "image_size": height if height == width else [height, width],
        "patch_size": config["patch_size"],
        "num_channels": channels,
        "dtype": "float32",
        "id2label": {},
        "label2id": {},
    }
    if config["include_top"]:
        classes = range(config["classes"])
        labels = config["class_names"] or [f"LABEL_{index}" for index in classes]
        settings["id2label"] = {str(index): labels[index] for index in classes}
        settings["label2id"] = {label: index for index, label in enumerate(labels)}
        if config["classifier_activation"] == "sigmoid":
            settings["problem_type"] = "multi_label_classification"
    return settings
