"""Writing of models as directories that transformers loads."""

from typing import Any

import numpy as np

from keras_vit.weights.directory import (
    Directory,
    position_rows,
    shares_positions,
    write_tensors,
)
from keras_vit.weights.parts import flatten_patches, join
from keras_vit.weights.transformers.beit import SHARED_TABLES
from keras_vit.weights.transformers.families import HIDDEN_ACTS, find_family
from keras_vit.weights.transformers.preprocessing import (
    naflex_config,
    preprocessor_config,
)
from keras_vit.weights.transformers.source import BlockNames
from keras_vit.weights.transformers.vit import DeiTSource


def transformers_directory(
    model: Any, with_preprocessor: bool = True, is_naflex: bool = False
) -> Directory:
    """Return the content of a directory that transformers loads.

    Args:
        model: a `keras_vit.ViT`, without LoRA and quantization.
        with_preprocessor: bool, whether the directory has a `preprocessor_config.json`.
        is_naflex: bool, whether to write SigLIP 2 NaFlex, which has the network of SigLIP
            and processes images of any aspect ratio.

    Raises:
        ValueError: if transformers cannot express the model.
    """
    config, values = model.resolved_config(), model._values()
    is_shared = shares_positions(values, config["num_layers"])
    family = find_family(config, is_shared, is_naflex)
    if family.kind == "CLIPVisionModelWithProjection" and values["classifier/bias"].any():
        raise ValueError(
            "transformers has no bias in the classifier of a CLIP with pooling='token'; "
            f"classifier/bias of the model has values up to "
            f"{np.abs(values['classifier/bias']).max():.3g}. Fine-tune a model with "
            "pooling='gap' and final_norm=None, which transformers has. Nothing was "
            "written."
        )
    source, prefix = family.source, family.prefix
    names = source.written_block(config)
    block = BlockNames(prefix + names.prefix, names.layers)
    config["position_rows"] = position_rows(config, with_registers=source is DeiTSource)
    config["table_grid"] = config["grid_shape"]
    if is_shared:
        config["shared_table"] = prefix + SHARED_TABLES[0]
    pieces = source.network_pieces(config, prefix, block)
    tensors = join(write_tensors(values, pieces, config), source.splits)
    if is_naflex:
        kernel = f"{prefix}{source.names['patches']}.weight"
        tensors[kernel] = flatten_patches(tensors[kernel])
    for name, tensor in family.extra.items():
        tensors[prefix + name] = tensor
    settings = {**_settings(config), **family.settings}
    settings = {name: value for name, value in settings.items() if value is not None}
    content: dict[str, Any] = {
        "architectures": [family.kind],
        "model_type": family.model_type,
    }
    if family.tower is None:
        content |= settings
    else:
        content["vision_config"] = {"model_type": family.tower, **settings}
    content |= {"dtype": "float32", **_labels(config)}
    files = {"config.json": content}
    if with_preprocessor:
        written = preprocessor_config(model.preprocessor, config["input_shape"])
        if is_naflex:
            written = naflex_config(written, config["patch_size"], config["grid_shape"])
        files["preprocessor_config.json"] = written
    return Directory(tensors, files)


def _settings(config):
    """Return the settings that all families have."""
    height, width, channels = config["input_shape"]
    return {
        "hidden_size": config["hidden_dim"],
        "num_hidden_layers": config["num_layers"],
        "num_attention_heads": config["num_heads"],
        "hidden_act": HIDDEN_ACTS.get(config["activation"]),
        "layer_norm_eps": config["layer_norm_epsilon"],
        "image_size": height if height == width else [height, width],
        "patch_size": config["patch_size"],
        "num_channels": channels,
    }


def _labels(config):
    """Return the settings of the classifier."""
    if not config["include_top"]:
        return {"id2label": {}, "label2id": {}}
    classes = range(config["classes"])
    labels = config["class_names"] or [f"LABEL_{index}" for index in classes]
    settings: dict[str, Any] = {
        "id2label": {str(index): labels[index] for index in classes},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    if config["classifier_activation"] == "sigmoid":
        settings["problem_type"] = "multi_label_classification"
    return settings
