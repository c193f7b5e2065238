"""Readers of transformers' vision models: directories, `.safetensors`, `.bin`."""

import os
from typing import Any

from keras_vit.weights.tensor_file import TensorFile, read_json
from keras_vit.weights.transformers import aimv2, beit, clip, dinov2, dinov3, siglip, vit
from keras_vit.weights.transformers.source import TransformersSource

_SOURCES: dict[str, type[TransformersSource]] = {
    model_type: source
    for source in (
        vit.ViTSource,
        vit.DeiTSource,
        vit.ViTMAESource,
        vit.IJepaSource,
        dinov2.Dinov2Source,
        dinov3.Dinov3Source,
        siglip.SiglipSource,
        siglip.Siglip2Source,
        clip.ClipSource,
        beit.BeitSource,
        aimv2.Aimv2Source,
    )
    for model_type in source.model_types
}


def check_model_type(path: str, config: dict[str, Any]) -> None:
    """Raise a `ValueError` if a config.json of transformers describes another model.

    Args:
        path: path of the file or directory, for the message.
        config: dict, the content of its `config.json`. A `config.json` of timm passes.
    """
    model_type = config.get("model_type")
    if model_type not in (None, *_SOURCES) and "architecture" not in config:
        raise ValueError(
            f"{path} is a checkpoint of transformers with model_type={model_type!r}; "
            f"keras_vit reads {', '.join(map(repr, _SOURCES))}, and no others."
        )


def open_transformers(file: TensorFile) -> TransformersSource:
    """Open a file with the tensor names of transformers.

    Args:
        file: the opened file.

    Returns:
        A `TransformersSource` of the class that config.json or the tensors show.

    Raises:
        ValueError: if config.json describes a network that keras_vit does not support.
    """
    config = read_json(os.path.dirname(file.path), "config.json")
    check_model_type(file.path, config)
    source = _SOURCES.get(config.get("model_type", ""))
    if source is None:
        source = _infer_source(file.shapes)
    vision = config.get("vision_config", config)
    return source(file, vision, config)


def _infer_source(shapes):
    """Return the class that tensors show without a config.json."""

    def has(ending):
        return any(name.endswith(ending) for name in shapes)

    if has("embeddings.patch_embed.weight"):
        return aimv2.Aimv2Source
    if has("embeddings.patch_embedding.weight"):
        if any(
            n.endswith("patch_embedding.weight") and len(shapes[n]) == 2 for n in shapes
        ):
            return siglip.Siglip2Source
        return clip.ClipSource if has("pre_layrnorm.weight") else siglip.SiglipSource
    if has("embeddings.patch_embeddings.weight"):
        return dinov3.Dinov3Source
    if has("layer_scale1.lambda1"):
        return dinov2.Dinov2Source
    if has(".lambda_1") or has("pooler.layernorm.weight"):
        return beit.BeitSource
    return vit.infer_source(shapes)
