"""Blocks of models whose number of tokens falls from block to block."""

import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

from keras_vit.layers.base import restored
from keras_vit.layers.position_kinds import split_positions
from keras_vit.layers.token_merging import MergingBlock, TokenMerging, unmerge_tokens


def reduction_of(argument: Any) -> TokenMerging | None:
    """Return the layer that an argument `token_reduction` stands for, or None.

    Args:
        argument: None, a `TokenMerging` or its config, an int, or a list of ints.

    Raises:
        ValueError: the argument is something else.
    """
    value = restored(argument)
    if value is None or isinstance(value, TokenMerging):
        return value
    if isinstance(value, keras.layers.Layer):
        raise ValueError(
            "token_reduction must be None, an int, a list of ints or a keras_vit.layers."
            f"TokenMerging; received {value!r}."
        )
    return TokenMerging(value)


def check_reduction(arguments: Mapping[str, Any]) -> None:
    """Raise a `ValueError` unless the blocks of a model can have fewer and fewer tokens.

    Args:
        arguments: every argument of `ViT`.
    """
    reduction = reduction_of(arguments["token_reduction"])
    if reduction is None:
        return
    reduction.counts(arguments["num_layers"])
    _, inside = split_positions(arguments["positions"])
    what = "token_reduction merges tokens, which then have no place in the grid: it needs"
    if inside is not None:
        raise ValueError(
            f"{what} positions that are added to the tokens ('learned', 'sincos_2d', "
            f"...); received positions={arguments['positions']!r}, which act inside of "
            "the attention of every block."
        )
    if arguments["block"] != "pre_norm":
        raise ValueError(
            f"token_reduction merges between attention and MLP: it needs block="
            f"'pre_norm'; received {arguments['block']!r}."
        )
    if arguments["remat"]:
        raise ValueError(
            "token_reduction needs remat=False; received remat=True. It has no effect on "
            "inference: keras_vit.load_checkpoint(..., remat=False)."
        )


def reduced_blocks(
    network: types.SimpleNamespace, arguments: Callable[..., dict[str, Any]], block: Any
) -> Iterable[keras.layers.Layer]:
    """Yield the blocks of a ViT: those before the first reduction are ordinary ones.

    Args:
        network: as for `keras_vit.models.vit.connect`.
        arguments: function from a network, an index and a depth to a block's arguments.
        block: class of ordinary blocks.
    """
    depth = network.num_layers
    reduction = reduction_of(network.token_reduction)
    counts = [0] * depth if reduction is None else reduction.counts(depth)
    for index in range(depth):
        own = arguments(network, index, depth)
        if reduction is None or not any(counts[: index + 1]):
            yield block(**own)
        else:
            yield MergingBlock(
                **own,
                merged=counts[index],
                num_prefix_tokens=network.num_prefix_tokens,
                proportional=reduction.proportional,
            )


def through(blocks: Iterable[keras.layers.Layer], tokens: Any) -> tuple[Any, Any, Any]:
    """Connect blocks one after the other.

    Args:
        blocks: iterable of blocks.
        tokens: symbolic tokens `(b, n, d)`.

    Returns:
        The tokens `(b, m, d)` of the last block, and their sizes and the places of the
        `n` original tokens, as `MergingBlock` returns them, or None for both.
    """
    sizes = places = None
    for block in blocks:
        if isinstance(block, MergingBlock):
            tokens, sizes, places = block(tokens, sizes=sizes, places=places)
        else:
            tokens = block(tokens)
    return tokens, sizes, places


def tokens_of(block: Any) -> Any:
    """Return the symbolic tokens that a block returns."""
    return block.output[0] if isinstance(block, MergingBlock) else block.output


def original_tokens(block: Any, tokens: Any) -> Any:
    """Return the tokens after a block for every original token, symbolic.

    Args:
        block: a block of a model.
        tokens: its tokens, or the result of a layer that changes each of them alone.

    Returns:
        `(b, n, d)`. Tokens that were merged are repeated.
    """
    if not isinstance(block, MergingBlock):
        return tokens
    return unmerge_tokens(tokens, block.output[2])


def keeps_tokens(model: Any) -> bool:
    """Return True if all blocks of a model have the same tokens."""
    return not any(isinstance(layer, MergingBlock) for layer in model.layers)


def check_keeps_tokens(model: Any, what: str) -> None:
    """Raise a `ValueError` for a model whose blocks have fewer and fewer tokens.

    Args:
        model: a `ViT`.
        what: what needs all tokens, for the message.
    """
    if not keeps_tokens(model):
        raise ValueError(
            f"{what} needs a model whose blocks all have the same tokens; this one has "
            f"token_reduction={model.get_config()['token_reduction']!r}. Use "
            "model.with_token_reduction(None)."
        )
