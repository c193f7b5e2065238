"""Vision Transformers for Keras 3."""

from keras_vit import export, layers
from keras_vit.labels import decode_predictions
from keras_vit.models.checkpoint import load_checkpoint
from keras_vit.models.variants import (
    ViTB8,
    ViTB14,
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
    ViTS14,
    ViTS16,
    ViTS32,
    ViTTi16,
)
from keras_vit.models.vit import ViT
from keras_vit.weights.registry import checkpoints

__version__ = "0.1.0"

__all__ = [
    "ViT",
    "ViTB8",
    "ViTB14",
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
    "ViTS14",
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
