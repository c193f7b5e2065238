"""Merging of LoRA into kernels, and checks of quantization."""

import re
from typing import Any

import numpy as np

from keras_vit.layers.base import adaptable_layers, adaptations
from keras_vit.models.adapt import copied

# Modes of `quantize` that need no calibration data.
MODES = ("int8", "int4", "float8")


def check_mode(mode: str | None, config: Any) -> None:
    """Raise a `ValueError` unless Vision Transformers can be quantized in this mode.

    Args:
        mode: argument of `quantize`; None for the mode of `config`.
        config: one of Keras's quantization configs, or None.
    """
    chosen = mode or getattr(config, "mode", None)
    if chosen not in MODES:
        raise ValueError(
            f"Unknown quantization mode {chosen!r} for a Vision Transformer; choose one "
            f"of {', '.join(map(repr, MODES))}. (Keras calibrates 'gptq' and 'awq' on "
            "text.)"
        )


def merged(model: Any) -> Any:
    """Return a model with its LoRA updates merged into the kernels.

    Args:
        model: a `keras_vit.ViT`.

    Returns:
        The model itself if it does not use LoRA, otherwise a new, uncompiled one.

    Raises:
        ValueError: the model is quantized.
    """
    refuse_quantized(model)
    config = model.get_config()
    if config.pop("lora", None) is None:
        return model
    return copied(model, config, merged_values(model))


def merged_values(model: Any) -> dict[str, np.ndarray]:
    """Return the weights with LoRA updates merged into the kernels, by path.

    Args:
        model: a `keras_vit.ViT`, with or without LoRA.
    """
    values = model._values()
    updates = adaptations(model, model.weights_scope()).get("lora", {})
    leaves = adaptable_layers(model, model.weights_scope())
    for path, (rank, alpha) in updates.items():
        product = np.matmul(
            *(values.pop(_path_of(model, factor)) for factor in _factors(leaves[path]))
        )
        kernel = _path_of(model, _base(leaves[path]))
        value = values[kernel].astype("float32") + alpha / rank * product
        values[kernel] = value.astype(values[kernel].dtype)
    return values


def refuse_quantized(model: Any) -> None:
    """Raise a `ValueError` if a model has quantized layers.

    Args:
        model: a `keras_vit.ViT`.
    """
    quantized = adaptations(model, model.weights_scope()).get("quantized")
    if quantized:
        path, (mode, _) = next(iter(quantized.items()))
        raise ValueError(
            f"The model is quantized ({mode}; {len(quantized)} layers, the first is "
            f"{path}), and LoRA, exports and conversions start from float weights. Use "
            "the model as it was before quantize(); keras_vit.export stores and computes "
            "in 8 bits with weights_dtype='int8'."
        )


def _path_of(model, weight):
    return weight.path.removeprefix(model.weights_scope())


def _factors(layer):
    """Return the two low-rank factors that LoRA adds to a layer."""
    if hasattr(layer, "lora_embeddings_a"):
        return layer.lora_embeddings_a, layer.lora_embeddings_b
    return layer.lora_kernel_a, layer.lora_kernel_b


def _base(layer):
    """Return the weight that LoRA freezes."""
    return layer._embeddings if hasattr(layer, "_embeddings") else layer._kernel


def is_factor(path: str) -> bool:
    """Return True for the path of a low-rank factor that LoRA adds to a layer.

    Args:
        path: path of a weight.
    """
    return re.search(r"/lora_(kernel|embeddings)_[ab]$", path) is not None


def bases(model: Any) -> set[str]:
    """Return the paths of the kernels that LoRA or quantization made untrainable.

    These kernels do not count as frozen by the user, unless the factors of LoRA are
    frozen too.

    Args:
        model: a `keras_vit.ViT`.
    """
    paths = set()
    for layer in adaptable_layers(model, model.weights_scope()).values():
        quantized = layer.quantization_mode in ("int8", "int4")
        if layer.lora_enabled:
            if any(factor.trainable for factor in _factors(layer)):
                paths.add(_path_of(model, _base(layer)))
        elif quantized and layer.trainable:
            paths |= {
                _path_of(model, weight)
                for weight in layer.weights
                if not weight.trainable
            }
    return paths
