"""Named variants of ViT."""

import functools
from collections.abc import Callable
from typing import Any

from keras_vit.layers import ResNetStem
from keras_vit.models.vit import ViT

# patch_size, hidden_dim, num_layers, num_heads, mlp_dim.
# Ti, S: Touvron et al. (arXiv:2012.12877); B, L, H: ViT (arXiv:2010.11929) table 1;
# g, G: Scaling Vision Transformers (arXiv:2106.04560) table 2. S and B with patches of
# 14: DINOv2 (arXiv:2304.07193).
VIT_SIZES = {
    "ViTTi16": (16, 192, 12, 3, 768),
    "ViTS8": (8, 384, 12, 6, 1536),
    "ViTS14": (14, 384, 12, 6, 1536),
    "ViTS16": (16, 384, 12, 6, 1536),
    "ViTS32": (32, 384, 12, 6, 1536),
    "ViTB8": (8, 768, 12, 12, 3072),
    "ViTB14": (14, 768, 12, 12, 3072),
    "ViTB16": (16, 768, 12, 12, 3072),
    "ViTB32": (32, 768, 12, 12, 3072),
    "ViTL14": (14, 1024, 24, 16, 4096),
    "ViTL16": (16, 1024, 24, 16, 4096),
    "ViTL32": (32, 1024, 24, 16, 4096),
    "ViTH14": (14, 1280, 32, 16, 5120),
    "ViTg14": (14, 1408, 40, 16, 6144),
    "ViTG14": (14, 1664, 48, 16, 8192),
}

# num_blocks of the ResNetStem, then as above; patch_size in positions of its output.
# R50: ViT section 4.1; R26 and R: AugReg (arXiv:2106.10270). At 224 px R+Ti/16 has 7x7
# tokens of 32 pixels each, in spite of its name.
HYBRID_SIZES: dict[str, tuple[Any, ...]] = {
    "ViTRTi16": ((), 8, 192, 12, 3, 768),
    "ViTR26S32": ((2, 2, 2, 2), 1, 384, 12, 6, 1536),
    "ViTR26B32": ((2, 2, 2, 2), 1, 768, 12, 12, 3072),
    "ViTR50B16": ((3, 4, 9), 1, 768, 12, 12, 3072),
    "ViTR50L32": ((3, 4, 6, 3), 1, 1024, 24, 16, 4096),
}


def named_variant(
    model_name: str,
    model_class: Callable[..., Any],
    sizes: dict[str, Any],
    parts: dict[str, tuple[str, Callable[[], Any]]] | None = None,
) -> Callable[..., Any]:
    """Return a documented function that builds a model with predefined sizes.

    Args:
        model_name: name of the function.
        model_class: `ViT` or `T2TViT`.
        sizes: dict of the arguments that are predefined.
        parts: None, or a dict from the arguments that are layers to the code of the
            layer, for the docstring, and a function without arguments that makes it.
            Every model gets its own layers.
    """
    parts = parts or {}

    def variant(**overrides: Any) -> Any:
        own = {name: make() for name, (_, make) in parts.items()}
        return model_class(**{**sizes, **own, **overrides})

    kind = model_class.__name__
    listing = [f"{name}={size!r}" for name, size in sizes.items()]
    listing += [f"{name}={code}" for name, (code, _) in parts.items()]
    variant.__name__ = variant.__qualname__ = model_name
    variant.__doc__ = f"""{model_name}: a `{kind}` with its sizes filled in.

    `{", ".join(listing)}`.
    Inputs, outputs, errors: see `{kind}`.

    Args:
        **overrides: any argument of `{kind}`; a size that is given replaces the named
            one.

    Returns:
        A `keras_vit.{kind}`.

    Example:

    >>> import keras_vit
    >>> model = keras_vit.{model_name}(classes=10)  # doctest: +SKIP
    """
    return variant


_SIZES = ("patch_size", "hidden_dim", "num_layers", "num_heads", "mlp_dim")


def _variant(model_name: str) -> Callable[..., ViT]:
    parts: dict[str, tuple[str, Callable[[], Any]]] = {}
    if model_name in HYBRID_SIZES:
        num_blocks, *row = HYBRID_SIZES[model_name]
        code = f"ResNetStem({num_blocks})"
        parts["stem"] = code, functools.partial(ResNetStem, num_blocks)
    else:
        row = list(VIT_SIZES[model_name])
    return named_variant(model_name, ViT, dict(zip(_SIZES, row, strict=True)), parts)


ViTTi16 = _variant("ViTTi16")
ViTS8 = _variant("ViTS8")
ViTS14 = _variant("ViTS14")
ViTS16 = _variant("ViTS16")
ViTS32 = _variant("ViTS32")
ViTB8 = _variant("ViTB8")
ViTB14 = _variant("ViTB14")
ViTB16 = _variant("ViTB16")
ViTB32 = _variant("ViTB32")
ViTL14 = _variant("ViTL14")
ViTL16 = _variant("ViTL16")
ViTL32 = _variant("ViTL32")
ViTH14 = _variant("ViTH14")
ViTg14 = _variant("ViTg14")
ViTG14 = _variant("ViTG14")
ViTRTi16 = _variant("ViTRTi16")
ViTR26S32 = _variant("ViTR26S32")
ViTR26B32 = _variant("ViTR26B32")
ViTR50B16 = _variant("ViTR50B16")
ViTR50L32 = _variant("ViTR50L32")
