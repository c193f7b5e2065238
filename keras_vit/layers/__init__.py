"""The layers of Vision Transformers, in the order the data flows."""

from keras_vit.layers.attention import SelfAttention
from keras_vit.layers.block import TransformerBlock
from keras_vit.layers.dense import Dense
from keras_vit.layers.heads import (
    AttentionPooling,
    Classifier,
    GlobalAveragePooling,
    PreLogits,
    TokenPooling,
)
from keras_vit.layers.mlp import MLP
from keras_vit.layers.norm import LayerNorm
from keras_vit.layers.patch_encoder import PatchEncoder
from keras_vit.layers.patches import Patches, PatchesToImage
from keras_vit.layers.positions import (
    LearnedPositions,
    LearnedPositions2D,
    RelativePositions,
    SinCosPositions2D,
)
from keras_vit.layers.preprocessor import Preprocessor
from keras_vit.layers.residual import LayerScale, StochasticDepth
from keras_vit.layers.resize import RESIZE_CONVENTIONS, resize_grid
from keras_vit.layers.resnet import (
    BottleneckUnit,
    GroupNorm,
    ResNetStem,
    StandardizedConv2D,
)

__all__ = [
    "MLP",
    "RESIZE_CONVENTIONS",
    "AttentionPooling",
    "BottleneckUnit",
    "Classifier",
    "Dense",
    "GlobalAveragePooling",
    "GroupNorm",
    "LayerNorm",
    "LayerScale",
    "LearnedPositions",
    "LearnedPositions2D",
    "PatchEncoder",
    "Patches",
    "PatchesToImage",
    "PreLogits",
    "Preprocessor",
    "RelativePositions",
    "ResNetStem",
    "SelfAttention",
    "SinCosPositions2D",
    "StandardizedConv2D",
    "StochasticDepth",
    "TokenPooling",
    "TransformerBlock",
    "resize_grid",
]
