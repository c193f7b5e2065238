"""Vision Transformers for Keras 3."""

from keras_vit import export, layers
from keras_vit.labels import decode_predictions
from keras_vit.models.checkpoint import load_checkpoint
from keras_vit.models.t2t_variants import (
    T2TViT7,
    T2TViT10,
    T2TViT12,
    T2TViT14,
    T2TViT14ResNeXt,
    T2TViT14SE,
    T2TViT14Wide,
    T2TViT16Ghost,
    T2TViT19,
    T2TViT24,
    T2TViTDense,
    T2TViTt14,
    T2TViTt19,
    T2TViTt24,
)
from keras_vit.models.t2t_vit import T2TViT
from keras_vit.models.variants import (
    ViTB8,
    ViTB16,
    ViTB32,
    ViTG14,
    ViTg14,
    ViTH14,
    ViTL14,
    ViTL16,
    ViTL32,
    ViTR26B32,
    ViTR26S32,
    ViTR50B16,
    ViTR50L32,
    ViTRTi16,
    ViTS8,
    ViTS16,
    ViTS32,
    ViTTi16,
)
from keras_vit.models.vit import ViT
from keras_vit.weights.registry import checkpoints

__version__ = "0.1.0"

__all__ = [
    "T2TViT",
    "T2TViT7",
    "T2TViT10",
    "T2TViT12",
    "T2TViT14",
    "T2TViT14ResNeXt",
    "T2TViT14SE",
    "T2TViT14Wide",
    "T2TViT16Ghost",
    "T2TViT19",
    "T2TViT24",
    "T2TViTDense",
    "T2TViTt14",
    "T2TViTt19",
    "T2TViTt24",
    "ViT",
    "ViTB8",
    "ViTB16",
    "ViTB32",
    "ViTG14",
    "ViTH14",
    "ViTL14",
    "ViTL16",
    "ViTL32",
    "ViTR26B32",
    "ViTR26S32",
    "ViTR50B16",
    "ViTR50L32",
    "ViTRTi16",
    "ViTS8",
    "ViTS16",
    "ViTS32",
    "ViTTi16",
    "ViTg14",
    "checkpoints",
    "decode_predictions",
    "export",
    "layers",
    "load_checkpoint",
]
