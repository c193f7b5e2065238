"""Layers of Vision Transformers, as plain formulas."""

from keras_vit.layers.attention import SelfAttention
from keras_vit.layers.backbones import (
    DenseBlock,
    GhostBlock,
    GhostDense,
    SqueezeExcitation,
    SqueezeExcitationBlock,
)
from keras_vit.layers.big_transfer import PreActivationUnit
from keras_vit.layers.block import LayerScale, StochasticDepth, TransformerBlock
from keras_vit.layers.compact import ConvTokenizer, SequencePooling
from keras_vit.layers.dense import Dense
from keras_vit.layers.detection_head import DetectionHead
from keras_vit.layers.feature_pyramid import SimpleFeaturePyramid
from keras_vit.layers.heads import (
    AttentionPooling,
    Classifier,
    GlobalAveragePooling,
    PreLogits,
    SimilarityClassifier,
    TokenAndAveragePooling,
    TokenPooling,
)
from keras_vit.layers.mask_transformer import MaskTransformer
from keras_vit.layers.mlp import MLP, GatedMLP
from keras_vit.layers.norms import LayerNorm, RMSNorm
from keras_vit.layers.patch_encoder import PatchEncoder
from keras_vit.layers.patches import Patches, PatchesToImage
from keras_vit.layers.pixels import PixelEmbedding, PixelPalette
from keras_vit.layers.positions import (
    LearnedPositions,
    LearnedPositions2D,
    SinCosPositions1D,
    SinCosPositions2D,
)
from keras_vit.layers.preprocessor import Preprocessor
from keras_vit.layers.relative_positions import (
    RelativePositionBias,
    RelativePositionMLP,
    RelativePositions,
)
from keras_vit.layers.resize import RESIZE_CONVENTIONS, resize_grid
from keras_vit.layers.resnet import (
    BottleneckUnit,
    GroupNorm,
    ResNetStem,
    StandardizedConv2D,
)
from keras_vit.layers.rotary import MixedRotaryPositions, RotaryPositions
from keras_vit.layers.soft_split import SoftSplit
from keras_vit.layers.token_halting import TokenHalting
from keras_vit.layers.token_merging import TokenMerging
from keras_vit.layers.tokens_to_token import (
    TokenPerformer,
    TokensToToken,
    TokenTransformer,
)

__all__ = [
    "MLP",
    "RESIZE_CONVENTIONS",
    "AttentionPooling",
    "BottleneckUnit",
    "Classifier",
    "ConvTokenizer",
    "Dense",
    "DenseBlock",
    "DetectionHead",
    "GatedMLP",
    "GhostBlock",
    "GhostDense",
    "GlobalAveragePooling",
    "GroupNorm",
    "LayerNorm",
    "LayerScale",
    "LearnedPositions",
    "LearnedPositions2D",
    "MaskTransformer",
    "MixedRotaryPositions",
    "PatchEncoder",
    "Patches",
    "PatchesToImage",
    "PixelEmbedding",
    "PixelPalette",
    "PreActivationUnit",
    "PreLogits",
    "Preprocessor",
    "RMSNorm",
    "RelativePositionBias",
    "RelativePositionMLP",
    "RelativePositions",
    "ResNetStem",
    "RotaryPositions",
    "SelfAttention",
    "SequencePooling",
    "SimilarityClassifier",
    "SimpleFeaturePyramid",
    "SinCosPositions1D",
    "SinCosPositions2D",
    "SoftSplit",
    "SqueezeExcitation",
    "SqueezeExcitationBlock",
    "StandardizedConv2D",
    "StochasticDepth",
    "TokenAndAveragePooling",
    "TokenHalting",
    "TokenMerging",
    "TokenPerformer",
    "TokenPooling",
    "TokenTransformer",
    "TokensToToken",
    "TransformerBlock",
    "resize_grid",
]
