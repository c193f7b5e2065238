"""Pictures of what a model computes: attention, positions, filters and features."""

from keras_vit.visualize.attention import (
    attention_rollout,
    attention_weights,
    head_maps,
    mean_attention_distance,
    pooling_weights,
)
from keras_vit.visualize.features import feature_channels, patch_colors
from keras_vit.visualize.filters import patch_filters
from keras_vit.visualize.gradient import gradient_attention
from keras_vit.visualize.pictures import overlay
from keras_vit.visualize.positions import position_similarity, similarity_and_distance
from keras_vit.visualize.report import report
from keras_vit.visualize.soft_splits import soft_split_maps, soft_split_weights
from keras_vit.visualize.tokens import merged_patches, token_depths, token_groups

__all__ = [
    "attention_rollout",
    "attention_weights",
    "feature_channels",
    "gradient_attention",
    "head_maps",
    "mean_attention_distance",
    "merged_patches",
    "overlay",
    "patch_colors",
    "patch_filters",
    "pooling_weights",
    "position_similarity",
    "report",
    "similarity_and_distance",
    "soft_split_maps",
    "soft_split_weights",
    "token_depths",
    "token_groups",
]
