"""Named variants of the modern Vision Transformers: DINOv2, DINOv3, CLIP and others."""

from collections.abc import Callable
from typing import Any

from keras_vit.layers import GatedMLP, RotaryPositions
from keras_vit.models.variants import named_variant
from keras_vit.models.vit import ViT

# hidden_dim, num_layers, num_heads, mlp_dim.
_SIZES = {
    "Ti": (192, 12, 3, 768),
    "S": (384, 12, 6, 1536),
    "B": (768, 12, 12, 3072),
    "L": (1024, 24, 16, 4096),
    "H": (1280, 32, 16, 5120),
    "HPlus": (1280, 32, 20, 5120),
    "So400m": (1152, 27, 16, 4304),
    "G": (1536, 40, 24, 4096),
    "7B": (4096, 40, 32, 8192),
}


def _sizes(size, patch_size, **arguments):
    hidden_dim, num_layers, num_heads, mlp_dim = _SIZES[size]
    return {
        "patch_size": patch_size,
        "hidden_dim": hidden_dim,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "mlp_dim": mlp_dim,
        **arguments,
    }


def _dinov2(size, **arguments):
    # DINOv2 (arXiv:2304.07193); with registers: registers=4, class_token_position=False.
    shape = (518, 518, 3)
    plain = {"input_shape": shape, "layer_scale": 1e-5, "activation": "gelu"}
    return _sizes(size, 14, **plain, **arguments)


def _dinov3(size, **arguments):
    # DINOv3 (arXiv:2508.10104).
    settings = {
        "positions": "rope_axial",
        "registers": 4,
        "layer_scale": 1e-5,
        "qkv_bias": "qv",
        "activation": "gelu",
        "layer_norm_epsilon": 1e-5,
    }
    return _sizes(size, 16, **{**settings, **arguments})


def _clip(size, patch_size, activation="quick_gelu"):
    # CLIP (arXiv:2103.00020); LAION's checkpoints have activation="gelu".
    settings = {"activation": activation, "layer_norm_epsilon": 1e-5}
    return _sizes(size, patch_size, embedding_norm="tokens", **settings)


def _siglip(size, patch_size):
    # SigLIP (arXiv:2303.15343) and SigLIP 2 (arXiv:2502.14786).
    return _sizes(size, patch_size, pooling="map", activation="gelu_tanh")


_AVERAGED = {
    "pooling": "gap",
    "class_token": True,
    "final_norm": "after_pooling",
    "qkv_bias": "qv",
    "activation": "gelu",
}


def _eva02(size, mlp_dim, **arguments):
    # EVA-02 (arXiv:2303.11331).
    sizes = _sizes(size, 14, **_AVERAGED, **arguments)
    return {**sizes, "mlp_dim": mlp_dim}


def _beit(size, layer_scale):
    # BEiT (arXiv:2106.08254) and BEiT v2 (arXiv:2208.06366).
    settings = {"positions": "relative_bias", "layer_scale": layer_scale}
    return _sizes(size, 16, **_AVERAGED, **settings)


MODERN_ARGUMENTS: dict[str, dict[str, Any]] = {
    "DINOv2ViTS14": _dinov2("S"),
    "DINOv2ViTB14": _dinov2("B"),
    "DINOv2ViTL14": _dinov2("L"),
    "DINOv2ViTG14": _dinov2("G", mlp="swiglu"),
    "DINOv3ViTS16": _dinov3("S"),
    "DINOv3ViTSPlus16": _dinov3("S", mlp="swiglu"),
    "DINOv3ViTB16": _dinov3("B"),
    "DINOv3ViTL16": _dinov3("L"),
    "DINOv3ViTHPlus16": _dinov3("HPlus", mlp="swiglu"),
    "DINOv3ViT7B16": _dinov3("7B", mlp="swiglu", qkv_bias=False),
    "CLIPViTB32": _clip("B", 32),
    "CLIPViTB16": _clip("B", 16),
    "CLIPViTL14": _clip("L", 14),
    "CLIPViTH14": _clip("H", 14, "gelu"),
    "SigLIPViTB16": _siglip("B", 16),
    "SigLIPViTL16": _siglip("L", 16),
    "SigLIPViTSo400m14": _siglip("So400m", 14),
    "EVA02ViTTi14": _eva02("Ti", 512, mlp="swiglu"),
    "EVA02ViTS14": _eva02("S", 1024, mlp="swiglu"),
    "EVA02ViTB14": _eva02("B", 2048),
    "EVA02ViTL14": _eva02("L", 2730),
    "BEiTB16": _beit("B", 0.1),
    "BEiTL16": _beit("L", 1e-5),
}


_ROTARY: dict[str, Any] = {
    "temperature": 10_000.0,
    "coordinates": "index",
    "reference_grid_shape": (16, 16),
    "layout": "interleaved",
}


def _eva02_parts(arguments):
    listing = ", ".join(f"{name}={value!r}" for name, value in _ROTARY.items())
    code = f'["learned", RotaryPositions({listing})]'
    parts = {"positions": (code, lambda: ["learned", RotaryPositions(**_ROTARY)])}
    if "mlp" not in arguments:
        code = "GatedMLP(inner_norm=True)"
        parts["mlp"] = code, lambda: GatedMLP(inner_norm=True)
    return parts


def _variant(model_name: str) -> Callable[..., ViT]:
    arguments = MODERN_ARGUMENTS[model_name]
    parts = _eva02_parts(arguments) if model_name.startswith("EVA02") else None
    return named_variant(model_name, ViT, arguments, parts)


DINOv2ViTS14 = _variant("DINOv2ViTS14")
DINOv2ViTB14 = _variant("DINOv2ViTB14")
DINOv2ViTL14 = _variant("DINOv2ViTL14")
DINOv2ViTG14 = _variant("DINOv2ViTG14")
DINOv3ViTS16 = _variant("DINOv3ViTS16")
DINOv3ViTSPlus16 = _variant("DINOv3ViTSPlus16")
DINOv3ViTB16 = _variant("DINOv3ViTB16")
DINOv3ViTL16 = _variant("DINOv3ViTL16")
DINOv3ViTHPlus16 = _variant("DINOv3ViTHPlus16")
DINOv3ViT7B16 = _variant("DINOv3ViT7B16")
CLIPViTB32 = _variant("CLIPViTB32")
CLIPViTB16 = _variant("CLIPViTB16")
CLIPViTL14 = _variant("CLIPViTL14")
CLIPViTH14 = _variant("CLIPViTH14")
SigLIPViTB16 = _variant("SigLIPViTB16")
SigLIPViTL16 = _variant("SigLIPViTL16")
SigLIPViTSo400m14 = _variant("SigLIPViTSo400m14")
EVA02ViTTi14 = _variant("EVA02ViTTi14")
EVA02ViTS14 = _variant("EVA02ViTS14")
EVA02ViTB14 = _variant("EVA02ViTB14")
EVA02ViTL14 = _variant("EVA02ViTL14")
BEiTB16 = _variant("BEiTB16")
BEiTL16 = _variant("BEiTL16")
