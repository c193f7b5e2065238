"""Writing of models as timm's checkpoints: `model.safetensors` and `config.json`."""

from typing import Any

from keras_vit.layers.attention import SelfAttention
from keras_vit.layers.base import in_words, restored
from keras_vit.layers.heads import GlobalAveragePooling
from keras_vit.layers.mlp import GatedMLP, make_mlp
from keras_vit.weights.directory import (
    Directory,
    position_rows,
    require,
    write_tensors,
)
from keras_vit.weights.timm import network_pieces
from keras_vit.weights.timm_config import pretrained_cfg
from keras_vit.weights.timm_network import ACTIVATIONS, POOLINGS, tensor_names

_LIBRARY = "timm"
_GLOBAL_POOLS = {pooling: name for name, pooling in POOLINGS.items()}
_ACT_LAYERS = {
    activation: name for name, activation in reversed(list(ACTIVATIONS.items()))
}
# Architectures whose code sets what no argument in a config.json can set: the epsilon of
# the norms, or the class of the network. All other arguments are stated in `model_args`.
_VIT = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}
_DISTILLED = {1e-6: "deit_base_distilled_patch16_224"}


def timm_directory(model: Any) -> Directory:
    """Return the content of a directory that timm loads.

    Args:
        model: a `keras_vit.ViT`, without LoRA and quantization.

    Raises:
        ValueError: if timm cannot express the model.
    """
    config = model.resolved_config()
    architecture, arguments, names = _vit(config)
    rows_for_registers = config["class_token_position"] and config["class_token"]
    config["position_rows"] = position_rows(config, with_registers=rows_for_registers)
    tensors = write_tensors(model._values(), network_pieces(names, config), config)
    cfg = pretrained_cfg(model.preprocessor, config)
    content = {
        "architecture": architecture,
        "num_classes": arguments["num_classes"],
        "num_features": config["hidden_dim"],
        "global_pool": arguments["global_pool"],
        "model_args": arguments,
        "pretrained_cfg": cfg,
    }
    if config["include_top"] and config["class_names"]:
        content["label_names"] = config["class_names"]
    return Directory(tensors, {"config.json": content})


def _vit(config):
    """Return the architecture, its arguments and its names in vision_transformer.py."""
    distilled = config["distillation_token"]
    architectures = _DISTILLED if distilled else _VIT
    if config["norm"] == "rms":  # timm's own `RmsNorm` has this epsilon.
        architectures = {1e-6: architectures[1e-6]}
    require(
        config,
        _LIBRARY,
        {
            "positions": ("learned",) if distilled else ("learned", "none"),
            "representation_size": (None,),
            "qkv_bias": (True, False),
            "activation": tuple(_ACT_LAYERS),
            "layer_norm_epsilon": tuple(architectures),
            "norm": ("layer", "rms"),
            "block": ("pre_norm",),
            "stem": (None,),
            "embedding_norm": (None, "tokens"),
            "registers": (0,) if distilled else (config["registers"],),
        },
    )
    pooling, include_prefix = config["pooling"], False
    if isinstance(restored(pooling), GlobalAveragePooling):
        pooling, include_prefix = "gap", True
    require({"pooling": pooling}, _LIBRARY, {"pooling": tuple(_GLOBAL_POOLS)})
    arguments = {
        **sizes(config),
        "global_pool": _GLOBAL_POOLS[pooling],
        "qkv_bias": config["qkv_bias"],
        "init_values": config["layer_scale"],
        "class_token": config["class_token"],
        "pos_embed": "learn" if config["added_positions"] == "learned" else "none",
        "no_embed_class": not (config["class_token_position"] and config["class_token"]),
        "reg_tokens": config["registers"],
        "pre_norm": config["embedding_norm"] == "tokens",
        "final_norm": config["final_norm"] is not None,
        "fc_norm": config["final_norm"] == "after_pooling",
        "pool_include_prefix": include_prefix,
        "act_layer": _ACT_LAYERS[config["activation"]],
        **_parts(config),
    }
    if config["norm"] == "rms":
        arguments["norm_layer"] = "rmsnorm"
    names = tensor_names(
        separate=False,
        gated=False,
        embedding_norm="norm_pre" if arguments["pre_norm"] else None,
        fc_norm=arguments["fc_norm"],
    )
    return architectures[config["layer_norm_epsilon"]], arguments, names


def _parts(config):
    """Return the arguments for the parts of attention and MLP."""
    attention = restored(config["attention"]) or SelfAttention()
    mlp = make_mlp(config["mlp"], config["activation"])
    if isinstance(mlp, GatedMLP):
        require(config, _LIBRARY, {"mlp": ("plain",)})
    if mlp.use_bias != attention.use_projection_bias:
        raise ValueError(
            "timm has biases in the MLPs if and only if the attention's projection has "
            f"one; the model has mlp={in_words(config['mlp'])} and "
            f"attention={in_words(config['attention'])}. Nothing was written."
        )
    return {
        "qk_norm": attention.qk_norm,
        "scale_attn_norm": attention.has_inner_norm,
        "scale_mlp_norm": mlp.has_inner_norm,
        "proj_bias": mlp.use_bias,
    }


def sizes(config: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of timm for the sizes of a model.

    Args:
        config: dict, the model's `resolved_config()`.
    """
    height, width, channels = config["input_shape"]
    hidden_dim, mlp_dim = config["hidden_dim"], config["mlp_dim"]
    ratio = mlp_dim / hidden_dim
    if int(hidden_dim * ratio) != mlp_dim:  # timm rounds the product down.
        ratio = (mlp_dim + 0.5) / hidden_dim
    return {
        "img_size": [height, width],
        "patch_size": config["patch_size"],
        "in_chans": channels,
        "num_classes": config["classes"] if config["include_top"] else 0,
        "embed_dim": hidden_dim,
        "depth": config["num_layers"],
        "num_heads": config["num_heads"],
        "mlp_ratio": ratio,
    }
