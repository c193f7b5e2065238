"""Families of models of transformers, with the models of keras_vit that they can express.

The readers have the names of the tensors. A family adds its classes and its settings in
config.json, and the arguments that a model must have.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from keras_vit.layers.attention import SelfAttention
from keras_vit.layers.base import restored
from keras_vit.layers.heads import AttentionPooling
from keras_vit.layers.mlp import GatedMLP, make_mlp
from keras_vit.layers.relative_positions import RelativePositionBias
from keras_vit.layers.rotary import RotaryPositions
from keras_vit.weights.directory import require, stated_positions
from keras_vit.weights.transformers.aimv2 import Aimv2Source
from keras_vit.weights.transformers.beit import BeitSource
from keras_vit.weights.transformers.clip import ClipSource
from keras_vit.weights.transformers.dinov2 import Dinov2Source
from keras_vit.weights.transformers.dinov3 import Dinov3Source
from keras_vit.weights.transformers.siglip import Siglip2Source, SiglipSource
from keras_vit.weights.transformers.source import ACTIVATIONS, TransformersSource
from keras_vit.weights.transformers.vit import DeiTSource, IJepaSource, ViTSource

LIBRARY = "transformers"
HIDDEN_ACTS = {
    **{activation: name for name, activation in reversed(list(ACTIVATIONS.items()))},
    "gelu_tanh": "gelu_pytorch_tanh",
}


class Family(NamedTuple):
    """A model of transformers.

    Attributes:
        source: reader of the family, which has the names of its tensors.
        model_type: str, the `model_type` in config.json.
        kind: str, name of the class.
        prefix: str, prefix of the names in that class.
        possible: dict from arguments to the values that the family has, where they are
            not those of a plain ViT.
        settings: dict, the family's own settings in config.json.
        extra: dict from the names of tensors that the class needs and does not use in
            evaluation to their arrays.
        tower: str, the `model_type` of the `vision_config` in which config.json has the
            settings; None if it has them itself.
    """

    source: type[TransformersSource]
    model_type: str
    kind: str
    prefix: str
    possible: dict[str, tuple]
    settings: dict[str, Any] = {}  # noqa: RUF012
    extra: dict[str, np.ndarray] = {}  # noqa: RUF012
    tower: str | None = None


# Values of a plain ViT.
_PLAIN: dict[str, tuple] = {
    "positions": ("learned",),
    "final_norm": ("before_pooling",),
    "representation_size": (None,),
    "norm": ("layer",),
    "mlp": ("plain",),
    "attention": (None,),
    "block": ("pre_norm",),
    "embedding_norm": (None,),
    "stem": (None,),
    "class_token": (True,),
    "class_token_position": (True,),
    "distillation_token": (False,),
    "registers": (0,),
    "layer_scale": (None,),
    "qkv_bias": (True, False),
    "activation": tuple(HIDDEN_ACTS),
}


def find_family(
    config: dict[str, Any], is_shared: bool, is_naflex: bool = False
) -> Family:
    """Return the family of transformers that has a model's tokens, norms and positions.

    Args:
        config: dict, the model's `resolved_config()`.
        is_shared: bool, whether all blocks have the same relative positions.
        is_naflex: bool, whether to return the family of SigLIP 2 NaFlex.

    Raises:
        ValueError: if the family cannot express the model.
    """
    family = _siglip2(config) if is_naflex else _find(config)(config)
    if family.source is BeitSource and is_shared:
        shared = {
            "use_relative_position_bias": False,
            "use_shared_relative_position_bias": True,
        }
        family = family._replace(settings={**family.settings, **shared})
    stated = {**config, "positions": stated_positions(config)}
    require(stated, LIBRARY, {**_PLAIN, **family.possible})
    height, width, channels = config["input_shape"]
    if family.source.is_square and height != width:
        square = height, height, channels
        raise ValueError(
            f"{family.kind} of transformers takes its grid of positions for a square "
            f"one; the model has input_shape={config['input_shape']}, which transformers "
            f"cannot express. Pass input_shape={square} to resize the positions to a "
            "square grid. Nothing was written."
        )
    return family


def _find(config) -> Callable[[dict[str, Any]], Family]:
    positions = config["attention_positions"]
    if isinstance(positions, RotaryPositions):
        return _dinov3
    if isinstance(positions, RelativePositionBias) or config["qkv_bias"] == "qv":
        return _beit
    if config["embedding_norm"] is not None:
        return _clip if config["embedding_norm"] == "tokens" else _aimv2
    if config["layer_scale"] is not None:
        return _dinov2
    if not config["class_token"]:
        # Two families have these tokens. Only SigLIP has attention pooling; otherwise
        # the activation decides, as far as SigLIP can express the rest.
        height, width, _ = config["input_shape"]
        usual = (config["activation"], config["qkv_bias"]) == ("gelu_tanh", True)
        is_siglip = config["pooling"] == "map" or (usual and height == width)
        return _siglip if is_siglip else _ijepa
    if config["distillation_token"] or config["registers"]:
        return _deit
    return _vit


def _own(config):
    """Return the settings of ViT and the families like it."""
    return {"intermediate_size": config["mlp_dim"], "qkv_bias": config["qkv_bias"]}


def _vit(config):
    # Without a classifier, the class has num_labels=0: the class of the network alone
    # has a pooler with weights that the model does not have.
    possible = {"pooling": ("token", None)}
    return Family(
        ViTSource, "vit", "ViTForImageClassification", "vit.", possible, _own(config)
    )


def _deit(config):
    has_teacher = config["distillation_token"]
    kind = f"DeiTForImageClassification{'WithTeacher' if has_teacher else ''}"
    possible = {
        "pooling": ("token", None),
        "distillation_token": (has_teacher,),
        "registers": (int(not has_teacher),),
    }
    return Family(DeiTSource, "deit", kind, "deit.", possible, _own(config))


def _ijepa(config):
    possible = {
        "pooling": ("gap", None),
        "class_token": (False,),
        "class_token_position": (True, False),
    }
    return Family(
        IJepaSource,
        "ijepa",
        "IJepaForImageClassification",
        "ijepa.",
        possible,
        _own(config),
    )


def _dinov2(config):
    with_head, registers = config["include_top"], config["registers"]
    mlp_ratio, mlp_dim = _mlp_ratio(config)
    possible = {
        "pooling": ("token_gap",) if with_head else ("token", None),
        "mlp_dim": (mlp_dim,),
        "registers": (registers,),
        "layer_scale": (config["layer_scale"],),
        "mlp": ("plain", "swiglu"),
    }
    settings = {
        "mlp_ratio": mlp_ratio,
        "qkv_bias": config["qkv_bias"],
        "use_swiglu_ffn": config["mlp"] == "swiglu",
        "layerscale_value": config["layer_scale"],
    }
    name, model_type, extra = "Dinov2", "dinov2", {}
    if registers:
        name, model_type = "Dinov2WithRegisters", "dinov2_with_registers"
        settings["num_register_tokens"] = registers
        mask_token = np.zeros((1, config["hidden_dim"]), "float32")
        extra = {"embeddings.mask_token": mask_token}
    else:
        settings["use_mask_token"] = False
    kind = f"{name}{'ForImageClassification' if with_head else 'Model'}"
    prefix = f"{model_type}." if with_head else ""
    return Family(Dinov2Source, model_type, kind, prefix, possible, settings, extra)


def _mlp_ratio(config):
    """Return DINOv2's setting for the width of the MLPs, an int, and that width."""
    width, mlp_dim = config["hidden_dim"], config["mlp_dim"]
    if config["mlp"] != "swiglu":
        ratio = max(1, mlp_dim // width)
        return ratio, width * ratio
    ratio = max(1, round(1.5 * mlp_dim / width))
    return ratio, (int(width * ratio * 2 / 3) + 7) // 8 * 8


def _dinov3(config):
    is_gated = config["mlp"] == "swiglu"
    require(
        {"positions": config["attention_positions"]},
        LIBRARY,
        {"positions": (RotaryPositions(),)},
    )
    require({"positions": config["added_positions"]}, LIBRARY, {"positions": ("none",)})
    _require_headless(config, "DINOv3")
    if config["layer_scale"] is None:
        raise ValueError(
            "DINOv3 in transformers has LayerScale; the model has layer_scale=None, "
            "which transformers cannot express. Nothing was written. A target ending in "
            ".keras can hold any model."
        )
    width, registers = config["hidden_dim"], config["registers"]
    possible = {
        "positions": (stated_positions(config),),
        "pooling": ("token", None),
        "class_token_position": (True, False),
        "registers": (registers,),
        "layer_scale": (config["layer_scale"],),
        "mlp": ("plain", "swiglu"),
        "qkv_bias": (True, False, "qv"),
        "activation": (config["activation"],) if is_gated else tuple(HIDDEN_ACTS),
    }
    settings = {
        "intermediate_size": config["mlp_dim"],
        "query_bias": config["qkv_bias"] is not False,
        "key_bias": config["qkv_bias"] is True,
        "value_bias": config["qkv_bias"] is not False,
        "use_gated_mlp": is_gated,
        "num_register_tokens": registers,
        "layerscale_value": config["layer_scale"],
        "rope_theta": 100.0,
    }
    if is_gated:
        settings["hidden_act"] = "silu"
    extra = {"embeddings.mask_token": np.zeros((1, 1, width), "float32")}
    if not registers:
        extra["embeddings.register_tokens"] = np.zeros((1, 0, width), "float32")
    return Family(
        Dinov3Source, "dinov3_vit", "DINOv3ViTModel", "", possible, settings, extra
    )


def _require_headless(config, name):
    if config["include_top"]:
        raise ValueError(
            f"transformers has no class of {name} with the classifier of the model "
            f"(include_top=True, pooling={config['pooling']!r}). Pass include_top=False "
            "to convert the model without it, or to='timm'. Nothing was written."
        )


def _clip(config):
    with_head, pooling = config["include_top"], config["pooling"]
    normed = pooling == "token"
    width = config["hidden_dim"]
    possible = {
        "pooling": ("token", "gap") if with_head else ("token", None),
        "final_norm": ("after_pooling",) if normed else (None,),
        "embedding_norm": ("tokens",),
        "qkv_bias": (True,),
    }
    settings = {"intermediate_size": config["mlp_dim"]}
    extra = {}
    if not normed:  # The norm of the class token, which is not used.
        extra = {
            "post_layernorm.weight": np.ones(width, "float32"),
            "post_layernorm.bias": np.zeros(width, "float32"),
        }
    kind, tower, prefix = "CLIPVisionModel", "clip_vision_model", "vision_model."
    family = Family(ClipSource, tower, kind, prefix, possible, settings, extra)
    if not with_head:
        return family
    if normed:
        settings["projection_dim"] = config["classes"]
        return family._replace(kind="CLIPVisionModelWithProjection")
    return family._replace(
        kind="CLIPForImageClassification", model_type="clip", tower=tower
    )


def _aimv2(config):
    _require_headless(config, "AIMv2")
    has_bias = config["qkv_bias"] is True
    mlp = make_mlp(config["mlp"], config["activation"])
    head = AttentionPooling(
        config["num_heads"],
        None,
        layer_norm_epsilon=config["layer_norm_epsilon"],
        use_query_projection=False,
        use_qkv_bias=has_bias,
    )
    require(
        {"mlp": mlp, "attention": restored(config["attention"]) or SelfAttention()},
        LIBRARY,
        {
            "mlp": (GatedMLP(), GatedMLP(use_bias=False)),
            "attention": (SelfAttention(use_projection_bias=has_bias),),
        },
    )
    possible = {
        "class_token": (False,),
        "class_token_position": (True, False),
        "norm": ("rms",),
        "mlp": (config["mlp"],),
        "attention": (config["attention"],),
        "embedding_norm": ("patches",),
        "pooling": (head, None),
        "activation": (config["activation"],),
    }
    settings = {
        "intermediate_size": config["mlp_dim"],
        "hidden_act": "silu",
        "rms_norm_eps": config["layer_norm_epsilon"],
        "qkv_bias": has_bias,
        "mlp_bias": mlp.use_bias,
        "use_head": config["pooling"] is not None,
        "is_native": False,
    }
    kind = "Aimv2VisionModel"
    return Family(Aimv2Source, "aimv2_vision_model", kind, "", possible, settings)


def _siglip(config):
    has_map = config["pooling"] == "map"
    if has_map:
        _require_headless(config, "SigLIP")
    possible = {
        "pooling": ("map", "gap", None),
        "class_token": (False,),
        "class_token_position": (True, False),
        "qkv_bias": (True,),
    }
    settings = {"intermediate_size": config["mlp_dim"], "vision_use_head": has_map}
    kind, tower, prefix = "SiglipVisionModel", "siglip_vision_model", "vision_model."
    family = Family(SiglipSource, tower, kind, prefix, possible, settings)
    if config["pooling"] != "gap":
        return family
    return family._replace(
        kind="SiglipForImageClassification", model_type="siglip", tower=tower
    )


def _siglip2(config):
    family, (rows, columns) = _siglip(config), config["grid_shape"]
    # The network resizes its positions to images of any size and states none.
    sizes = {"num_patches": rows * columns, "image_size": None}
    return family._replace(
        source=Siglip2Source,
        model_type=family.model_type.replace("siglip", "siglip2"),
        kind=family.kind.replace("Siglip", "Siglip2"),
        settings={**family.settings, **sizes},
        tower=family.tower and family.tower.replace("siglip", "siglip2"),
    )


def _beit(config):
    with_head, has_mean = config["include_top"], config["final_norm"] != "before_pooling"
    inside, learned = (
        config["attention_positions"],
        config["added_positions"] == "learned",
    )
    poolings = {
        "before_pooling": ("token", None),
        "after_pooling": ("gap",),
        None: (None,),
    }
    possible = {
        "positions": (
            *("none", "learned"),
            *((stated_positions(config),) if inside is not None else ()),
        ),
        "final_norm": tuple(poolings),
        "pooling": poolings[config["final_norm"]],
        "class_token_position": (True,) if learned else (True, False),
        "layer_scale": (config["layer_scale"],),
        "qkv_bias": ("qv",),
    }
    settings = {
        "intermediate_size": config["mlp_dim"],
        "use_absolute_position_embeddings": learned,
        "use_relative_position_bias": inside is not None,
        "use_shared_relative_position_bias": False,
        "layer_scale_init_value": config["layer_scale"] or 0.0,
        "use_mean_pooling": has_mean,
        "use_mask_token": False,
    }
    extra = {}
    if config["final_norm"] is None:  # The norm of the pooler, which is not used.
        extra = {
            "pooler.layernorm.weight": np.ones(config["hidden_dim"], "float32"),
            "pooler.layernorm.bias": np.zeros(config["hidden_dim"], "float32"),
        }
    kind = "BeitForImageClassification" if with_head else "BeitModel"
    prefix = "beit." if with_head else ""
    return Family(BeitSource, "beit", kind, prefix, possible, settings, extra)
