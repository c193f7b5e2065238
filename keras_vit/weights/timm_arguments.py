"""Arguments of timm's models for the models of keras_vit.

This is the inverse of `timm_network.py`, for each class of timm. The arguments in a
config.json are numbers and strings, and null stands for the default of the architecture.
Classes of layers, and the epsilon of the norms, are therefore fixed by an architecture of
timm that has them, and all other arguments are stated.
"""

from typing import Any, NamedTuple

from keras_vit.layers.attention import SelfAttention
from keras_vit.layers.base import restored
from keras_vit.layers.heads import AttentionPooling, GlobalAveragePooling
from keras_vit.layers.mlp import MLP, GatedMLP, make_mlp
from keras_vit.layers.patch_encoder import EMBEDDING_NORMS
from keras_vit.layers.relative_positions import (
    RelativePositionBias,
    RelativePositionMLP,
)
from keras_vit.layers.resnet import ResNetStem
from keras_vit.layers.rotary import MixedRotaryPositions, RotaryPositions
from keras_vit.weights.directory import require, stated_positions
from keras_vit.weights.pieces import attention_pooling
from keras_vit.weights.timm_network import ACTIVATIONS, AXES, NORMS, POOLINGS

LIBRARY = "timm"
_GLOBAL_POOLS = {pooling: name for name, pooling in POOLINGS.items()}
_ACT_LAYERS = {
    activation: name for name, activation in reversed(list(ACTIVATIONS.items()))
}
_NORM_LAYERS = {norm: name for name, norm in NORMS.items()}
_GRID_INDEXINGS = {axes: name for name, axes in AXES.items()}

# Architectures of the class VisionTransformer, by epsilon.
_PLAIN = {1e-6: "vit_base_patch16_224", 1e-5: "vit_base_patch16_clip_224"}
_DISTILLED = {1e-6: "deit_base_distilled_patch16_224"}
_BLOCKS = {
    "post_norm": {1e-6: "vit_base_patch16_rpn_224"},
    "parallel": {1e-6: "vit_base_patch16_xp_224"},
}
_SWIGLU = {1e-6: "vit_giant_patch14_dinov2"}
_SWIGLU_RMS = {1e-5: "aimv2_large_patch14_224"}
# Architectures with a ResNet, by its numbers of units.
_HYBRIDS = {
    (): "vit_tiny_r_s16_p8_224",
    (2, 2, 2, 2): "vit_small_r26_s32_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}
# Values of the arguments that only some architectures of VisionTransformer change.
_USUAL = {"block": "pre_norm", "mlp": "plain", "stem": None}
# Architectures of the class Eva: without and with LayerScale.
_EVA = {
    1e-6: ("eva_giant_patch14_224", "eva_giant_patch14_224"),
    1e-5: ("vit_pe_core_tiny_patch16_384", "vit_small_patch16_dinov3"),
}
# Arguments that have no other value in the classes for relative positions.
_RELATIVE = {
    "registers": (0,),
    "distillation_token": (False,),
    "representation_size": (None,),
    "stem": (None,),
    "norm": ("layer",),
    "layer_norm_epsilon": (1e-6,),
    "embedding_norm": (None,),
    "final_norm": ("before_pooling", "after_pooling"),
    "pooling": ("token", "gap", None),
}


class TimmModel(NamedTuple):
    """A model of timm.

    Attributes:
        kind: class of the model: `"vit"`, `"eva"`, `"beit"` or `"relpos"`.
        architecture: str, timm's name for the architecture.
        arguments: dict of the other arguments of the model.
        separate: bool, whether q, k and v are projected by three layers.
        gated: bool, whether the gate of the MLP and its hidden layer are two layers.
    """

    kind: str
    architecture: str
    arguments: dict[str, Any]
    separate: bool = False
    gated: bool = False


def timm_model(config: dict[str, Any], is_shared: bool) -> TimmModel:
    """Return the model of timm that has the outputs of a model of keras_vit.

    Args:
        config: dict, the model's `resolved_config()`.
        is_shared: bool, whether all blocks have the same relative positions.

    Raises:
        ValueError: if timm has no such model.
    """
    require(config, LIBRARY, {"representation_size": (None,)})
    positions = config["attention_positions"]
    if isinstance(positions, RelativePositionMLP):
        return _relpos(config, is_shared)
    if isinstance(positions, RelativePositionBias):
        return _beit(config, is_shared)
    if isinstance(positions, RotaryPositions | MixedRotaryPositions):
        return _eva(config)
    return _eva(config) if config["qkv_bias"] == "qv" else _vit(config)


def _common(config):
    """Return the arguments that all classes have."""
    height, width, channels = config["input_shape"]
    pooling = restored(config["pooling"])
    if isinstance(pooling, GlobalAveragePooling):
        pooling = "gap"
    elif isinstance(pooling, AttentionPooling):
        pooling = "map"
    require({"pooling": pooling}, LIBRARY, {"pooling": tuple(_GLOBAL_POOLS)})
    return {
        "img_size": [height, width],
        "patch_size": config["patch_size"],
        "in_chans": channels,
        "num_classes": config["classes"] if config["include_top"] else 0,
        "global_pool": _GLOBAL_POOLS[pooling],
        "embed_dim": config["hidden_dim"],
        "depth": config["num_layers"],
        "num_heads": config["num_heads"],
        "mlp_ratio": _ratio(config["hidden_dim"], config["mlp_dim"]),
    }


def _ratio(hidden_dim, mlp_dim):
    """Return the ratio of two widths, from which timm computes the second."""
    ratio = mlp_dim / hidden_dim
    if int(hidden_dim * ratio) != mlp_dim:  # timm rounds the product down.
        ratio = (mlp_dim + 0.5) / hidden_dim
    return ratio


def _parts(config):
    """Return the layers of attention and MLP of a model, not built."""
    attention = restored(config["attention"]) or SelfAttention()
    return attention, make_mlp(config["mlp"], config["activation"])


def _require_attention(config, qk_norm=False, inner_norm=False, no_bias=False):
    """Raise a `ValueError` if the attention has another option than those allowed."""
    attention, _ = _parts(config)
    allowed = SelfAttention(
        qk_norm=qk_norm and attention.qk_norm,
        inner_norm=inner_norm and attention.has_inner_norm,
        use_projection_bias=not no_bias or attention.use_projection_bias,
    )
    require({"attention": attention}, LIBRARY, {"attention": (allowed,)})


def _require_mlp(config, activation, gated=True, inner_norm=True, use_bias=True):
    """Raise a `ValueError` if timm does not have the MLP.

    Args:
        config: dict, the model's `resolved_config()`.
        activation: activation of an MLP without a gate.
        gated: bool, whether the MLP may have a gate.
        inner_norm: bool, whether the MLP may have an inner norm.
        use_bias: bool, whether the MLP has biases.
    """
    _, mlp = _parts(config)
    options = {"inner_norm": inner_norm and mlp.has_inner_norm, "use_bias": use_bias}
    allowed = MLP(activation=activation, **options)
    if gated and isinstance(mlp, GatedMLP):
        allowed = GatedMLP(**options)
    require({"mlp": mlp}, LIBRARY, {"mlp": (allowed,)})


def _require_pooling(config, num_heads, mlp_dim, prefixes, activation):
    """Raise a `ValueError` if timm does not have the pooling.

    Args:
        config: dict, the model's `resolved_config()`.
        num_heads: int, heads of attention pooling.
        mlp_dim: int, width of its MLP.
        prefixes: the possible numbers of prefix tokens that the pooling leaves out.
        activation: activation of its MLP.
    """
    pooling, allowed = restored(config["pooling"]), []
    if isinstance(pooling, GlobalAveragePooling):
        allowed = [GlobalAveragePooling(prefix) for prefix in prefixes]
    elif (pooling := attention_pooling(config)) is not None:
        options = {
            "activation": activation,
            "layer_norm_epsilon": config["layer_norm_epsilon"],
            "norm": config["norm"],
        }
        sizes = num_heads, mlp_dim
        allowed = [AttentionPooling(*sizes, prefix, **options) for prefix in prefixes]
    if allowed:
        require({"pooling": pooling}, LIBRARY, {"pooling": tuple(allowed)})


def _vit_architectures(config, is_gated):
    """Return architectures of the class VisionTransformer with a model's layers.

    Returns:
        Dict from the epsilon of the norms to the name of an architecture.
    """
    stem, norm, epsilon = config["stem"], config["norm"], config["layer_norm_epsilon"]
    special = {
        "distillation_token": config["distillation_token"],
        "block": config["block"] != "pre_norm",
        "mlp": is_gated,
        "stem": stem is not None,
    }
    found = [argument for argument, is_special in special.items() if is_special]
    if not found:
        # config.json can name only norms with the default epsilon of timm.
        names_norm = norm == "rms" or config["embedding_norm"] == "patches"
        return {1e-6: _PLAIN[1e-6]} if names_norm else _PLAIN
    if len(found) > 1:  # No architecture combines two of them.
        require(config, LIBRARY, {found[1]: (_USUAL[found[1]],)})
    if found == ["stem"]:
        require(
            {"stem": stem},
            LIBRARY,
            {"stem": tuple(ResNetStem(u, 64, epsilons="timm") for u in _HYBRIDS)},
        )
        return {1e-6: _HYBRIDS[tuple(stem.num_blocks)]}
    if found == ["mlp"]:
        return _SWIGLU_RMS if (norm, epsilon) == ("rms", 1e-5) else _SWIGLU
    if found == ["distillation_token"]:
        return _DISTILLED
    return _BLOCKS[config["block"]]


def _vit(config):
    """Return the model of the class VisionTransformer."""
    attention, mlp = _parts(config)
    is_gated = isinstance(mlp, GatedMLP)
    architectures = _vit_architectures(config, is_gated)
    distilled, embedding_norm = config["distillation_token"], config["embedding_norm"]
    positions = ("learned",) if distilled else ("learned", "none")
    has_stem, is_post = config["stem"] is not None, config["block"] == "post_norm"
    is_parallel = config["block"] == "parallel"
    require(
        {**config, "positions": stated_positions(config)},
        LIBRARY,
        {
            "positions": positions,
            "qkv_bias": (True, False),
            "activation": (config["activation"],) if is_gated else tuple(_ACT_LAYERS),
            "layer_norm_epsilon": tuple(architectures),
            "norm": ("layer", "rms"),
            "layer_scale": (None,) if is_post else (config["layer_scale"],),
            "embedding_norm": (None, "tokens") if has_stem else EMBEDDING_NORMS,
            "registers": (0,) if distilled else (config["registers"],),
        },
    )
    inner = not is_parallel
    _require_attention(config, qk_norm=True, inner_norm=inner, no_bias=inner)
    use_bias = attention.use_projection_bias
    _require_mlp(config, config["activation"], inner_norm=inner, use_bias=use_bias)
    activation = "silu" if is_gated else config["activation"]
    is_packed = is_gated and architectures is _SWIGLU
    mlp_dim = config["mlp_dim"] * (1 + is_packed)
    prefixes = config["num_prefix_tokens"], 0
    _require_pooling(config, config["num_heads"], mlp_dim, prefixes, activation)
    arguments = {
        **_common(config),
        "mlp_ratio": _ratio(config["hidden_dim"], mlp_dim),
        "qkv_bias": config["qkv_bias"],
        "class_token": config["class_token"],
        "pos_embed": "learn" if config["added_positions"] == "learned" else "none",
        "no_embed_class": not _has_prefix_rows(config),
        "reg_tokens": config["registers"],
        "pre_norm": embedding_norm == "tokens",
        "final_norm": config["final_norm"] is not None,
        "fc_norm": config["final_norm"] == "after_pooling",
        "pool_include_prefix": _pools_prefix(config),
        "act_layer": _ACT_LAYERS[activation],
        "qk_norm": attention.qk_norm,
        "scale_attn_norm": attention.has_inner_norm,
        "scale_mlp_norm": mlp.has_inner_norm,
        "proj_bias": use_bias,
    }
    if config["layer_scale"] is not None:
        arguments["init_values"] = config["layer_scale"]
    elif is_gated:  # The architecture has LayerScale.
        arguments["init_values"] = 0.0
    if architectures is _SWIGLU_RMS:
        if embedding_norm != "patches":
            arguments["embed_norm_layer"] = ""
    else:
        if config["norm"] == "rms" or is_parallel:
            arguments["norm_layer"] = _NORM_LAYERS[config["norm"]]
        if embedding_norm == "patches":
            arguments["embed_norm_layer"] = _NORM_LAYERS[config["norm"]]
    architecture = architectures[config["layer_norm_epsilon"]]
    return TimmModel("vit", architecture, arguments, gated=is_gated and not is_packed)


def _has_prefix_rows(config):
    """Return True if the table of positions has rows for the prefix tokens."""
    return config["class_token_position"] and config["class_token"]


def _pools_prefix(config):
    """Return True if the pooling includes prefix tokens."""
    pooling = restored(config["pooling"])
    if isinstance(pooling, GlobalAveragePooling | AttentionPooling):
        return pooling.num_prefix_tokens < config["num_prefix_tokens"]
    return False


def _eva(config):
    """Return the model of the class Eva."""
    attention, mlp = _parts(config)
    is_gated, is_post = isinstance(mlp, GatedMLP), config["block"] == "post_norm"
    require(
        config,
        LIBRARY,
        {
            "distillation_token": (False,),
            "stem": (None,),
            "norm": ("layer",),
            "layer_norm_epsilon": tuple(_EVA),
            "block": ("pre_norm", "post_norm"),
            "layer_scale": (None,) if is_post else (config["layer_scale"],),
            "embedding_norm": (None, "tokens"),
        },
    )
    _require_attention(config, qk_norm=not is_post, inner_norm=True)
    _require_mlp(config, "gelu")
    pooling = attention_pooling(config)
    if pooling is not None:
        sizes = pooling.num_heads, pooling.mlp_dim or config["mlp_dim"]
        _require_pooling(config, *sizes, (0,), "gelu")
    else:
        _require_pooling(config, 0, 0, (config["num_prefix_tokens"],), "gelu")
    architecture = _EVA[config["layer_norm_epsilon"]][config["layer_scale"] is not None]
    positions = config["attention_positions"]
    # As in the networks of EVA-02 and DINOv3 with a gate.
    is_separate = is_gated and mlp.has_inner_norm
    aligned = is_gated and getattr(positions, "coordinates", "") == "centered"
    arguments = {
        **_common(config),
        "qkv_bias": config["qkv_bias"] is not False,
        "qkv_fused": not is_separate,
        "attn_type": "rope" if config["qkv_bias"] is True else "eva",
        "scale_attn_inner": attention.has_inner_norm,
        "swiglu_mlp": is_gated,
        "swiglu_align_to": int(aligned),
        "scale_mlp": mlp.has_inner_norm,
        "class_token": config["class_token"],
        "num_reg_tokens": config["registers"],
        "no_embed_class": not _has_prefix_rows(config),
        "use_abs_pos_emb": config["added_positions"] == "learned",
        "use_post_norm": is_post,
        "use_pre_transformer_norm": config["embedding_norm"] == "tokens",
        "use_post_transformer_norm": config["final_norm"] == "before_pooling",
        "use_fc_norm": config["final_norm"] == "after_pooling",
        **_rotary(positions, architecture),
    }
    if config["layer_scale"] is not None:
        arguments["init_values"] = config["layer_scale"]
    if attention.qk_norm:
        arguments["qk_norm"] = True
    if pooling is not None:
        arguments["attn_pool_num_heads"] = pooling.num_heads
        ratio = _ratio(config["hidden_dim"], pooling.mlp_dim)
        arguments["attn_pool_mlp_ratio"] = ratio
    gated = is_separate or aligned
    return TimmModel("eva", architecture, arguments, is_separate, gated)


def _rotary(positions, architecture):
    """Return the arguments of the class Eva for rotary positions, or for none."""
    arguments: dict[str, Any] = {"use_rot_pos_emb": positions is not None}
    if positions is None:
        return arguments
    arguments["rope_temperature"] = positions.temperature
    arguments["rope_rotate_half"] = positions.layout == "half"
    if isinstance(positions, MixedRotaryPositions):
        allowed = MixedRotaryPositions(temperature=positions.temperature)
        require({"positions": positions}, LIBRARY, {"positions": (allowed,)})
        return {**arguments, "rope_type": "mixed", "rope_grid_indexing": "xy"}
    reference = positions.reference_grid_shape
    if positions.coordinates == "centered":
        arguments["rope_type"] = "dinov3"
    else:
        arguments["rope_type"] = "cat"
        if reference is not None:
            arguments["ref_feat_shape"] = list(reference)
        elif architecture.startswith("vit_pe"):
            raise ValueError(
                "timm cannot express rotary positions without reference_grid_shape in a "
                "network with layer_norm_epsilon=1e-05 and without LayerScale. Nothing "
                "was written. A target ending in .keras can hold any model."
            )
    return {
        **arguments,
        "rope_grid_offset": positions.offset,
        "rope_grid_indexing": _GRID_INDEXINGS[positions.axes],
    }


def _beit(config, is_shared):
    """Return the model of the class Beit."""
    _, mlp = _parts(config)
    require(
        config,
        LIBRARY,
        {
            **_RELATIVE,
            "class_token": (True,),
            "class_token_position": (
                (True,)
                if config["added_positions"] == "learned"
                else (config["class_token_position"],)
            ),
            "qkv_bias": ("qv", False),
            "block": ("pre_norm",),
        },
    )
    require(
        {"positions": config["added_positions"]},
        LIBRARY,
        {"positions": ("learned", "none")},
    )
    _require_attention(config)
    _require_mlp(config, "gelu")
    arguments = {
        **_common(config),
        "qkv_bias": config["qkv_bias"] == "qv",
        "swiglu_mlp": isinstance(mlp, GatedMLP),
        "scale_mlp": mlp.has_inner_norm,
        "init_values": config["layer_scale"] or 0.0,
        "use_abs_pos_emb": config["added_positions"] == "learned",
        "use_rel_pos_bias": not is_shared,
        "use_shared_rel_pos_bias": is_shared,
    }
    after = config["final_norm"] == "after_pooling"
    if after != (config["pooling"] == "gap"):  # Another norm than timm's default.
        arguments["use_fc_norm"] = after
    gated = arguments["swiglu_mlp"]
    return TimmModel("beit", "beit_base_patch16_224", arguments, gated=gated)


def _relpos(config, is_shared):
    """Return the model of the class VisionTransformerRelPos."""
    attention, _ = _parts(config)
    is_post = config["block"] == "post_norm"
    require(
        {**config, "positions": config["added_positions"]},
        LIBRARY,
        {
            **_RELATIVE,
            "positions": ("none",),
            "qkv_bias": (True, False),
            "block": ("pre_norm", "post_norm"),
            "layer_scale": (None,) if is_post else (config["layer_scale"],),
        },
    )
    _require_attention(config, qk_norm=True)
    _require_mlp(config, "gelu", gated=False, inner_norm=False)
    kind = "rpn_" if is_post else ""
    arguments = {
        **_common(config),
        "qkv_bias": config["qkv_bias"],
        "init_values": config["layer_scale"] or 0.0,
        "class_token": config["class_token"],
        "fc_norm": config["final_norm"] == "after_pooling",
        "rel_pos_type": "mlp",
        "rel_pos_dim": config["attention_positions"].hidden_dim,
        "shared_rel_pos": is_shared,
    }
    if attention.qk_norm:
        arguments["qk_norm"] = True
    return TimmModel("relpos", f"vit_relpos_base_patch16_{kind}224", arguments)
