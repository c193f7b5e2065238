"""Named variants of T2T-ViT."""

from collections.abc import Callable
from typing import Any

from keras_vit.models.t2t_vit import T2TViT
from keras_vit.models.variants import named_variant


def _sizes(hidden_dim, num_layers, num_heads, mlp_ratio, **arguments):
    return {
        "hidden_dim": hidden_dim,
        "num_layers": num_layers,
        "num_heads": num_heads,
        "mlp_dim": mlp_ratio * hidden_dim,
        **arguments,
    }


# Sizes from T2T-ViT (arXiv:2101.11986): 7 to 24 and t-14 to t-24 from table 1, and the
# others, each of which borrows an idea from convolutional networks, from tables 2 and 6.
T2T_VIT_ARGUMENTS: dict[str, dict[str, Any]] = {
    "T2TViT7": _sizes(256, 7, 4, 2),
    "T2TViT10": _sizes(256, 10, 4, 2),
    "T2TViT12": _sizes(256, 12, 4, 2),
    "T2TViT14": _sizes(384, 14, 6, 3),
    "T2TViT19": _sizes(448, 19, 7, 3),
    "T2TViT24": _sizes(512, 24, 8, 3),
    "T2TViTt14": _sizes(384, 14, 6, 3, tokens="transformer"),
    "T2TViTt19": _sizes(448, 19, 7, 3, tokens="transformer"),
    "T2TViTt24": _sizes(512, 24, 8, 3, tokens="transformer"),
    "T2TViT14Wide": _sizes(768, 4, 12, 3),
    "T2TViT14ResNeXt": _sizes(384, 14, 32, 3),
    "T2TViT14SE": _sizes(384, 14, 6, 3, backbone="se"),
    "T2TViT16Ghost": _sizes(384, 16, 6, 3, backbone="ghost"),
    "T2TViTDense": _sizes(128, (3, 6, 6, 4), 8, 2, backbone="dense", growth_rate=64),
}


def _variant(model_name: str) -> Callable[..., T2TViT]:
    return named_variant(model_name, T2TViT, T2T_VIT_ARGUMENTS[model_name])


T2TViT7 = _variant("T2TViT7")
T2TViT10 = _variant("T2TViT10")
T2TViT12 = _variant("T2TViT12")
T2TViT14 = _variant("T2TViT14")
T2TViT19 = _variant("T2TViT19")
T2TViT24 = _variant("T2TViT24")
T2TViTt14 = _variant("T2TViTt14")
T2TViTt19 = _variant("T2TViTt19")
T2TViTt24 = _variant("T2TViTt24")
T2TViT14Wide = _variant("T2TViT14Wide")
T2TViT14ResNeXt = _variant("T2TViT14ResNeXt")
T2TViT14SE = _variant("T2TViT14SE")
T2TViT16Ghost = _variant("T2TViT16Ghost")
T2TViTDense = _variant("T2TViTDense")
