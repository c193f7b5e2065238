"""Small versions of every ViT-like network of timm, with perturbed weights."""

import json
import math
import pathlib
from typing import Any

import numpy as np
import timm
import torch
from safetensors.numpy import save_file
from timm.models import _hub, _registry

from keras_vit.weights.timm import HEADS

# Modules of timm with networks that use the tensor names of a ViT.
MODULES = (
    *("vision_transformer", "deit", "eva", "beit", "vision_transformer_relpos"),
    *("vision_transformer_hybrid", "naflexvit"),
)
GRID = 4
CLASSES = 10
# Arguments of the networks that the general recipe does not make small.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    # The convolutional stem has this width.
    "vit_base_mci_224": {"embed_dim": 768},
    # Two blocks: one with all key and value heads, one with half of them.
    "vit_base_patch16_sapiens2": {"embed_dim": 96, "num_kv_heads": (12, 6)},
    "vit_large_patch16_sapiens2": {"embed_dim": 128, "num_kv_heads": (16, 8)},
    "vit_huge_patch16_sapiens2": {"embed_dim": 128, "num_kv_heads": (16, 8)},
    "vit_giant_patch16_sapiens2": {"embed_dim": 192, "num_kv_heads": (24, 12)},
    "vit_5b_patch16_sapiens2": {"embed_dim": 256, "num_kv_heads": (32, 16)},
}
# Small values in these tensors make the outputs sensitive to epsilon and to the variant
# of GELU.
_SMALL = (
    *("attn.proj.", "mlp.fc2", "pos_embed", "patch_embed.proj", "cls_token"),
    *("dist_token", "reg_token", "norm_pre", "embeds.proj", "_out_proj."),
)


def names() -> list[str]:
    """Return the names of all networks, without the deprecated ones."""
    modules, deprecated = _registry._model_to_module, _registry._deprecated_models
    return sorted(
        name
        for name, module in modules.items()
        if module in MODULES and name not in deprecated
    )


def build(name: str) -> Any:
    """Return a small network of an architecture, with two blocks and perturbed weights.

    The network keeps the architecture's own number of heads, so that a reader can look it
    up by the name. Its width is 8 channels per head, because rotary positions need a
    multiple of 4, or 12 if 8 would be the width of a published network with another
    number of heads.

    Args:
        name: str, timm's name for the architecture.
    """
    arguments = {"depth": 2, "num_classes": CLASSES, **_ARGUMENTS.get(name, {})}
    depth: dict[str, Any] = {} if "num_kv_heads" in arguments else {"depth": 1}
    with torch.device("meta"):
        large: Any = timm.create_model(name, **depth)
    heads = _num_heads(large)
    width = 8 * heads
    if HEADS.get(width, heads) != heads:
        width = 12 * heads
    arguments = {"embed_dim": width, **arguments}
    if hasattr(large, "patch_embed"):
        side = GRID * large.patch_embed.feat_ratio(as_scalar=True)
    else:
        side = GRID * large.embeds.patch_size[0]
        arguments["pos_embed_grid_size"] = (GRID, GRID)
    if not large.global_pool:
        arguments["num_classes"] = 0  # A network that returns its tokens.
    torch.manual_seed(0)
    network = timm.create_model(name, img_size=side, **arguments).eval()
    network.side = side
    return perturb(network)


def _num_heads(network):
    """Return the number of attention heads of the first block."""
    return next(m.num_heads for m in network.blocks.modules() if hasattr(m, "num_heads"))


def perturb(network: Any) -> Any:
    """Replace all weights by random values to which the outputs are sensitive."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            is_kernel = name.endswith("weight")
            if weight.ndim >= 2:
                value = noise * (1.3 / math.sqrt(weight[0].numel()) if is_kernel else 0.7)
            else:
                value = is_kernel + 0.3 * noise
            small = "attn_pool" not in name and any(part in name for part in _SMALL)
            weight.copy_(value * (0.01 if small else 1))
    return network


def images(network: Any) -> np.ndarray:
    """Return two random images `(2, h, w, 3)` of the size of the network."""
    generator = np.random.default_rng(0)
    shape = (2, network.side, network.side, 3)
    return generator.normal(size=shape).astype("float32")


def outputs(network: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return a network's tokens after its last norm, pooled features and logits.

    Args:
        network: a network of timm.
        images: array `(b, h, w, 3)`.

    Returns:
        Dict with some of the keys `"tokens"`, `"pooled"` and `"logits"`.
    """
    with torch.no_grad():
        tokens = network.forward_features(
            torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        )
        if isinstance(tokens, dict):  # NaFlexViT returns a mask, too.
            tokens = tokens["patches"]
        found = {"tokens": tokens}
        if network.global_pool:
            if not hasattr(network, "dist_token") or network.dist_token is None:
                found["pooled"] = network.forward_head(tokens, pre_logits=True)
            found["logits"] = network.forward_head(tokens)
    return {key: value.numpy() for key, value in found.items()}


def save(network: Any, directory: pathlib.Path, config: str) -> pathlib.Path:
    """Save a network like timm, and return the path of its weights.

    Args:
        network: the network.
        directory: directory for `model.safetensors` and `config.json`.
        config: `"saved"` for the config.json that timm writes, `"published"` for one
            without `model_args`, like those of timm's published files, or `"bare"` for
            none.
    """
    path = directory / "model.safetensors"
    save_file({n: x.numpy().copy() for n, x in network.state_dict().items()}, path)
    config_path = directory / "config.json"
    config_path.unlink(missing_ok=True)
    if config != "bare":
        _hub.save_config_for_hf(network, str(config_path))
    if config == "published":
        stated = json.loads(config_path.read_text())
        del stated["model_args"]
        stated["pretrained_cfg"]["input_size"] = [3, network.side, network.side]
        config_path.write_text(json.dumps(stated))
    return path


def ideas(network: Any) -> list[str]:
    """Return the parts of a network that the ViT of the paper does not have.

    Refused networks are grouped by them.
    """
    block = network.blocks[0]
    kinds = {type(module).__name__ for module in network.modules()}
    attention = getattr(block, "attn", block)
    mlp = getattr(block, "mlp", None)
    present = {
        "NaFlexViT": hasattr(network, "embeds"),
        "convolutional stem": "ConvStem" in kinds,
        "stem with batch norm": "ConvStem" not in kinds
        and any(kind.startswith("BatchNorm") for kind in kinds),
        "ResNetV2 stem": "ResNetV2" in kinds or "StdConv2dSame" in kinds,
        type(block).__name__: type(block).__name__
        not in ("Block", "EvaBlock", "RelPosBlock"),
        "rotary positions": "RotaryEmbeddingCat" in kinds,
        "rotary positions (DINOv3)": "RotaryEmbeddingDinoV3" in kinds,
        "rotary positions (mixed)": "RotaryEmbeddingMixed" in kinds,
        "relative position bias": bool(kinds & {"RelPosBias", "RelPosMlp"})
        or hasattr(attention, "relative_position_bias_table"),
        "norm before the blocks": isinstance(
            getattr(network, "norm_pre", None), torch.nn.LayerNorm
        ),
        "no final norm": isinstance(network.norm, torch.nn.Identity)
        and isinstance(network.fc_norm, torch.nn.Identity),
        "RMSNorm": "RmsNorm" in kinds,
        "QK-norm": not isinstance(
            getattr(attention, "q_norm", torch.nn.Identity()), torch.nn.Identity
        ),
        "norm in the attention": not isinstance(
            getattr(attention, "norm", torch.nn.Identity()), torch.nn.Identity
        ),
        "norm in the MLP": not isinstance(
            getattr(mlp, "norm", torch.nn.Identity()), torch.nn.Identity
        ),
        "SwiGLU": bool(kinds & {"SwiGLU", "GluMlp", "SwiGLUPacked"}),
        "quick GELU": bool(kinds & {"QuickGELU", "QuickGELUTorch"}),
        "grouped-query attention": any(
            getattr(block.attn, "num_kv_heads", None) not in (None, block.attn.num_heads)
            for block in network.blocks
            if hasattr(block, "attn")
        ),
        "attention pooling": "AttentionPoolLatent" in kinds,
        "no k bias": getattr(attention, "q_bias", None) is not None,
        "registers": getattr(network, "reg_token", None) is not None,
        "norm after pooling": not isinstance(network.fc_norm, torch.nn.Identity),
    }
    return [name for name, is_present in present.items() if is_present]


def answers(network: Any, name: str) -> dict[str, Any]:
    """Return the arguments of `load_checkpoint` that errors may ask for."""
    return {
        "num_heads": _num_heads(network),
        "architecture": name,
        "input_shape": (network.side, network.side, 3),
        "source_grid_shape": (GRID, GRID),
    }
