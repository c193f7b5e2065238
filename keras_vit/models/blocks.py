"""The blocks of a ViT, created from its arguments."""

import types
from collections.abc import Iterator
from typing import Any

import keras

from keras_vit.layers import TransformerBlock
from keras_vit.layers.base import copy_of
from keras_vit.layers.positions import AttentionPositions
from keras_vit.layers.token_halting import HaltingBlock, TokenHalting
from keras_vit.layers.token_merging import MergingBlock
from keras_vit.models.token_reduction import reduction_of


def transformer_blocks(network: types.SimpleNamespace) -> Iterator[keras.layers.Layer]:
    """Yield the blocks of a ViT: those before the first reduction are ordinary ones.

    Args:
        network: as for `keras_vit.models.vit.connect`.
    """
    reduction, depth = reduction_of(network.token_reduction), network.num_layers
    for index in range(depth):
        arguments = block_arguments(network, index, depth)
        if isinstance(reduction, TokenHalting):
            yield HaltingBlock(
                **arguments,
                scale=reduction.scale,
                center=reduction.center,
                epsilon=reduction.epsilon,
                kept=None if reduction.kept is None else reduction.kept[index],
                last=index + 1 == depth,
                num_prefix_tokens=network.num_prefix_tokens,
            )
        elif reduction is None or not any(reduction.counts(depth)[: index + 1]):
            yield TransformerBlock(**arguments)
        else:
            yield MergingBlock(
                **arguments,
                merged=reduction.counts(depth)[index],
                num_prefix_tokens=network.num_prefix_tokens,
                proportional=reduction.proportional,
            )


def block_arguments(
    network: types.SimpleNamespace, index: int, depth: int
) -> dict[str, Any]:
    """Return the arguments of block number `index` of `depth` blocks.

    Args:
        network: as for `keras_vit.models.vit.connect`.
        index: int, number of the block, from 0.
        depth: int, number of blocks.
    """
    positions = network.attention_positions
    if positions is not None:
        positions = copy_of(
            "positions", positions, (AttentionPositions,), grid_shape=network.grid_shape
        )
    return {
        "num_heads": network.num_heads,
        "mlp_dim": network.mlp_dim,
        "activation": network.activation,
        "layer_norm_epsilon": network.layer_norm_epsilon,
        "qkv_bias": network.qkv_bias,
        "layer_scale": network.layer_scale,
        "dropout_rate": network.dropout_rate,
        "attention_dropout_rate": network.attention_dropout_rate,
        "stochastic_depth_rate": network.stochastic_depth_rate
        * index
        / max(depth - 1, 1),
        "positions": positions,
        "remat": network.remat,
        "norm": network.norm,
        "mlp": network.mlp,
        "attention": network.attention,
        "order": network.block,
        "dtype": network.policy,
        "name": f"block_{index}",
    }
