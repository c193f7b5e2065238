"""Writing of models as timm's checkpoints: `model.safetensors` and `config.json`."""

from typing import Any

import numpy as np

from keras_vit.weights import parallel_blocks
from keras_vit.weights.directory import (
    Directory,
    position_rows,
    shares_positions,
    write_tensors,
)
from keras_vit.weights.naflex import naflex_model, naflex_tensors
from keras_vit.weights.timm import ROOTS, network_pieces
from keras_vit.weights.timm_arguments import timm_model
from keras_vit.weights.timm_config import pretrained_cfg
from keras_vit.weights.timm_network import SCALES, SHARED, tensor_names


def timm_directory(model: Any, resizing: dict[str, Any] | None = None) -> Directory:
    """Return the content of a directory that timm loads.

    Args:
        model: a `keras_vit.ViT`, without LoRA and quantization.
        resizing: None, or the `NaFlexSource.resizing` of the NaFlexViT to write, which
            processes images of any aspect ratio.

    Raises:
        ValueError: if timm cannot express the model.
    """
    config, values = model.resolved_config(), model._values()
    is_shared = shares_positions(values, config["num_layers"])
    is_naflex = resizing is not None
    if resizing is not None:
        described = naflex_model(config, is_shared, resizing)
    else:
        described = timm_model(config, is_shared)
    rows_for_registers = config["class_token_position"] and config["class_token"]
    config["position_rows"] = position_rows(config, with_registers=rows_for_registers)
    config["table_grid"] = config["grid_shape"]
    names = tensor_names(
        separate=described.separate,
        gated=described.gated,
        embedding_norm="norm_pre" if config["embedding_norm"] == "tokens" else None,
        fc_norm=config["final_norm"] == "after_pooling",
    )
    root = None
    if config["stem"] is not None:
        root = ROOTS[len(config["stem"].num_blocks) > 0]
    tensors = write_tensors(values, network_pieces(names, config, root), config)
    if config["block"] == "parallel":
        tensors = parallel_blocks.join(tensors, config["num_layers"])
    tensors = _stored(tensors, config["num_layers"], described.kind, is_shared)
    if is_naflex:
        tensors = naflex_tensors(tensors, config["grid_shape"])
    content = {
        "architecture": described.architecture,
        "num_classes": described.arguments["num_classes"],
        "num_features": config["hidden_dim"],
        "global_pool": described.arguments["global_pool"],
        "model_args": described.arguments,
        "pretrained_cfg": pretrained_cfg(model.preprocessor, config),
    }
    if is_naflex:
        pixels = {"first_conv": "embeds.proj", "fixed_input_size": False}
        content["pretrained_cfg"] |= pixels
    if root is not None:
        content["pretrained_cfg"]["first_conv"] = root.removesuffix(".weight")
    if config["include_top"] and config["class_names"]:
        content["label_names"] = config["class_names"]
    return Directory(tensors, {"config.json": content})


def _stored(tensors, num_layers, kind, is_shared):
    """Return tensors as the class of timm stores them, the inverse of `TimmSource`."""
    tensors = dict(tensors)
    for shared, (own, axis) in SHARED.items():
        names = [f"blocks.{index}.{own}" for index in range(num_layers)]
        if names[0] in tensors and (is_shared or axis is not None):
            arrays = [tensors.pop(name) for name in names]
            tensors[shared] = arrays[0] if axis is None else np.stack(arrays, axis)
    if kind not in ("eva", "beit"):
        return tensors
    for index in range(num_layers):
        for name, own in SCALES.items():
            if (scale := tensors.pop(f"blocks.{index}.{name}", None)) is not None:
                tensors[f"blocks.{index}.{own}"] = scale
    return tensors
