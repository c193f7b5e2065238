"""Small versions of the vision classes of transformers, with perturbed weights."""

import pathlib
from typing import Any

import numpy as np
import torch
import transformers

from recipes.compatibility.timm_networks import perturb

SIDE, PATCH, CLASSES = 64, 16, 6
GRID = SIDE // PATCH
_SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 100,
    "image_size": SIDE,
    "patch_size": PATCH,
}
_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "vocab_size": 50,
}
_DINOV2: dict[str, Any] = {"mlp_ratio": 2}
_BEIT: dict[str, Any] = {
    "use_relative_position_bias": True,
    "layer_scale_init_value": 0.1,
}
# Class and additional arguments of its configuration, by the name in the table.
_NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViTModel": ("ViTModel", {}),
    "ViTForImageClassification": ("ViTForImageClassification", {}),
    "ViTForMaskedImageModeling": ("ViTForMaskedImageModeling", {}),
    "DeiTModel": ("DeiTModel", {}),
    "DeiTForImageClassification": ("DeiTForImageClassification", {}),
    "DeiTForImageClassificationWithTeacher": (
        "DeiTForImageClassificationWithTeacher",
        {},
    ),
    "ViTMAEModel": ("ViTMAEModel", {"mask_ratio": 0.0}),
    "ViTMAEForPreTraining": ("ViTMAEForPreTraining", {"mask_ratio": 0.0}),
    "ViTMSNModel": ("ViTMSNModel", {}),
    "ViTMSNForImageClassification": ("ViTMSNForImageClassification", {}),
    "IJepaModel": ("IJepaModel", {}),
    "IJepaForImageClassification": ("IJepaForImageClassification", {}),
    "Dinov2Model": ("Dinov2Model", _DINOV2),
    "Dinov2Model (SwiGLU)": ("Dinov2Model", {**_DINOV2, "use_swiglu_ffn": True}),
    "Dinov2ForImageClassification": ("Dinov2ForImageClassification", _DINOV2),
    "Dinov2WithRegistersModel": ("Dinov2WithRegistersModel", _DINOV2),
    "Dinov2WithRegistersForImageClassification": (
        "Dinov2WithRegistersForImageClassification",
        _DINOV2,
    ),
    "DINOv3ViTModel": ("DINOv3ViTModel", {"num_register_tokens": 4}),
    "DINOv3ViTModel (gated MLP)": (
        "DINOv3ViTModel",
        {"num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu"},
    ),
    "CLIPVisionModel": ("CLIPVisionModel", {}),
    "CLIPVisionModel (GELU)": ("CLIPVisionModel", {"hidden_act": "gelu"}),
    "CLIPVisionModelWithProjection": ("CLIPVisionModelWithProjection", {}),
    "CLIPModel": ("CLIPModel", {}),
    "SiglipVisionModel": ("SiglipVisionModel", {}),
    "SiglipModel": ("SiglipModel", {}),
    "SiglipForImageClassification": ("SiglipForImageClassification", {}),
    "Siglip2VisionModel": ("Siglip2VisionModel", {"num_patches": GRID**2}),
    "Siglip2Model": ("Siglip2Model", {"num_patches": GRID**2}),
    "BeitModel": ("BeitModel", _BEIT),
    "BeitModel (shared bias)": (
        "BeitModel",
        {
            "use_shared_relative_position_bias": True,
            "use_absolute_position_embeddings": True,
        },
    ),
    "BeitForImageClassification": ("BeitForImageClassification", _BEIT),
    "BeitForMaskedImageModeling": ("BeitForMaskedImageModeling", _BEIT),
    "Aimv2VisionModel": ("Aimv2VisionModel", {}),
    "Aimv2VisionModel (native)": ("Aimv2VisionModel", {"is_native": True}),
    "Aimv2Model": ("Aimv2Model", {}),
    "DPTModel": ("DPTModel", {"backbone_out_indices": [0, 1]}),
}
_TWO_TOWERS = ("CLIPModel", "SiglipModel", "Siglip2Model", "Aimv2Model")
# Poolers that select or average tokens. Others, such as that of ViT, are layers for
# other tasks.
_POOLERS = ("Dinov2", "DINOv3", "CLIP", "Siglip", "Aimv2", "Beit")


def names() -> list[str]:
    """Return the names of all networks."""
    return list(_NETWORKS)


def build(name: str) -> Any:
    """Return a small network of a class, with two blocks and perturbed weights."""
    kind, more = _NETWORKS[name]
    network_class = getattr(transformers, kind)
    config_class = network_class.config_class
    sizes = {**_SIZES, **more}
    if "mlp_ratio" in sizes:  # DINOv2 has no setting for the width itself.
        del sizes["intermediate_size"]
    if "SiglipForImage" in kind or kind in _TWO_TOWERS:
        text = {**_TEXT, "projection_size": 48} if "Siglip" in kind else _TEXT
        config = config_class(vision_config=sizes, text_config=text, num_labels=CLASSES)
    else:
        config = config_class(**sizes, num_labels=CLASSES)
    torch.manual_seed(0)
    network = network_class(config).eval()
    return perturb(network)


def images(network: Any) -> np.ndarray:
    """Return two random images `(2, h, w, 3)`."""
    generator = np.random.default_rng(0)
    return generator.normal(size=(2, SIDE, SIDE, 3)).astype("float32")


def outputs(network: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return a network's tokens, pooled features or logits.

    Args:
        network: a network of transformers.
        images: array `(b, h, w, 3)`.

    Returns:
        Dict with some of the keys `"tokens"`, `"pooled"` and `"logits"`.
    """
    kind = type(network).__name__
    tower = network
    if kind in (*_TWO_TOWERS, "CLIPVisionModelWithProjection"):
        tower = network.vision_model
    elif kind in ("ViTForMaskedImageModeling", "ViTMAEForPreTraining"):
        tower = network.vit
    elif kind == "BeitForMaskedImageModeling":
        tower = network.beit
    with torch.no_grad():
        computed = tower(**_inputs(kind, images))
    found = {
        "logits": computed.get("logits"),
        "tokens": computed.get("last_hidden_state"),
    }
    if kind.startswith(_POOLERS):
        found["pooled"] = computed.get("pooler_output")
    if kind.startswith("CLIP"):
        # These tokens are those before the norm, which CLIP applies to the class token.
        del found["tokens"]
    return {k: value.numpy() for k, value in found.items() if value is not None}


def _inputs(kind, images):
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    if kind.startswith("Siglip2"):
        patches = images.reshape(-1, GRID, PATCH, GRID, PATCH, 3).swapaxes(2, 3)
        count = len(images)
        return {
            "pixel_values": torch.from_numpy(patches.reshape(count, GRID**2, -1).copy()),
            "pixel_attention_mask": torch.ones(count, GRID**2, dtype=torch.int64),
            "spatial_shapes": torch.tensor([[GRID, GRID]] * count),
        }
    if kind.startswith("ViTMAE"):  # Without noise, the network shuffles its tokens.
        order = torch.arange(GRID**2, dtype=torch.float32)
        return {"pixel_values": pixels, "noise": order.repeat(len(images), 1)}
    return {"pixel_values": pixels}


def save(network: Any, directory: pathlib.Path, config: str) -> pathlib.Path:
    """Save a network like transformers, and return the path to load.

    Args:
        network: the network.
        directory: directory for the files.
        config: `"saved"` for the weights with their config.json, or `"bare"` for the
            weights alone.
    """
    transformers.utils.logging.disable_progress_bar()
    network.save_pretrained(directory)
    if config == "saved":
        return directory
    (directory / "config.json").unlink()
    return directory / "model.safetensors"


def answers(network: Any) -> dict[str, Any]:
    """Return the arguments of `load_checkpoint` that errors may ask for."""
    config = getattr(network.config, "vision_config", network.config)
    given = {
        "num_heads": config.num_attention_heads,
        "activation": {"gelu_pytorch_tanh": "gelu_tanh"}.get(
            config.hidden_act, config.hidden_act
        ),
        "state_dict": "vision_model",
        "input_shape": (SIDE, SIDE, 3),
        "source_grid_shape": (GRID, GRID),
    }
    epsilon = getattr(config, "layer_norm_eps", getattr(config, "rms_norm_eps", None))
    return given if epsilon is None else {**given, "layer_norm_epsilon": epsilon}
