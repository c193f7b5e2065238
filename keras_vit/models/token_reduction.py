"""Blocks of models whose number of tokens falls from block to block."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
from keras import ops

from keras_vit.layers.base import restored
from keras_vit.layers.heads import TokenPooling
from keras_vit.layers.position_kinds import split_positions
from keras_vit.layers.token_halting import HaltingBlock, TokenHalting
from keras_vit.layers.token_merging import MergingBlock, TokenMerging, unmerge_tokens


def reduction_of(argument: Any) -> TokenMerging | TokenHalting | None:
    """Return the layer that an argument `token_reduction` stands for, or None.

    Args:
        argument: None, a `TokenMerging` or `TokenHalting` or its config, an int, or a
            list of ints.

    Raises:
        ValueError: the argument is something else.
    """
    value = restored(argument)
    if value is None or isinstance(value, TokenMerging | TokenHalting):
        return value
    if isinstance(value, keras.layers.Layer):
        raise ValueError(
            "token_reduction must be None, an int, a list of ints, or a TokenMerging or "
            f"TokenHalting of keras_vit.layers; received {value!r}."
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
    if isinstance(reduction, TokenMerging):
        reduction.counts(arguments["num_layers"])
    else:
        _check_halting(reduction, arguments)
    pooling = restored(arguments["pooling"])
    prefix = _prefix(arguments)
    if isinstance(pooling, TokenPooling) and not 0 <= pooling.index < prefix:
        raise ValueError(
            "Patches have other places after token_reduction: it needs the pooling of "
            f"one of the {prefix} tokens before them; received index={pooling.index}."
        )
    _, inside = split_positions(arguments["positions"])
    what = "token_reduction leaves fewer tokens than the grid has places: it needs"
    if inside is not None:
        raise ValueError(
            f"{what} positions that are added to the tokens ('learned', 'sincos_2d', "
            f"...); received positions={arguments['positions']!r}, which act inside of "
            "the attention of every block."
        )
    if arguments["block"] != "pre_norm":
        raise ValueError(
            "token_reduction changes what a block computes: it needs block='pre_norm'; "
            f"received {arguments['block']!r}."
        )
    if arguments["remat"]:
        raise ValueError(
            "token_reduction needs remat=False; received remat=True. It has no effect on "
            "inference: keras_vit.load_checkpoint(..., remat=False)."
        )


def _check_halting(halting, arguments):
    depth, pooling = arguments["num_layers"], restored(arguments["pooling"])
    if halting.kept is not None and len(halting.kept) != depth:
        raise ValueError(
            f"kept must have one int for each of the {depth} blocks; received "
            f"{halting.kept!r}."
        )
    if pooling != "token" and not isinstance(pooling, TokenPooling):
        raise ValueError(
            "TokenHalting returns the class token only: it needs pooling='token'; "
            f"received {pooling!r}."
        )
    prefix = _prefix(arguments)
    if halting.kept is not None and min(halting.kept) <= prefix:
        raise ValueError(
            f"kept must leave a patch beside the {prefix} prefix tokens, which are never "
            f"dropped; received {halting.kept!r}."
        )


def _prefix(arguments):
    """Return the number of tokens before the patches of a model with a class token."""
    class_token = arguments["class_token"] is not False
    return class_token + int(arguments["distillation_token"]) + arguments["registers"]


def through(blocks: Iterable[keras.layers.Layer], tokens: Any) -> tuple[Any, Any, Any]:
    """Connect blocks one after the other.

    Args:
        blocks: iterable of blocks.
        tokens: symbolic tokens `(b, n, d)`.

    Returns:
        The tokens `(b, m, d)` of the last block, or the outputs `(b, p, d)` of the prefix
        tokens if tokens stop; and the sizes of merged tokens and the places of the `n`
        original tokens, as `MergingBlock` returns them, or None for both.
    """
    sizes = places = sums = output = None
    for block in blocks:
        if isinstance(block, MergingBlock):
            tokens, sizes, places = block(tokens, sizes=sizes, places=places)
        elif isinstance(block, HaltingBlock):
            tokens, sums, places, output, _ = block(
                tokens, sums=sums, places=places, output=output
            )
        else:
            tokens = block(tokens)
    if output is None:
        return tokens, sizes, places
    return ops.cast(output, tokens.dtype), None, None


def tokens_of(block: Any) -> Any:
    """Return the symbolic tokens that a block returns."""
    reduced = isinstance(block, MergingBlock | HaltingBlock)
    return block.output[0] if reduced else block.output


def original_tokens(block: Any, tokens: Any) -> Any:
    """Return the tokens after a block for every original token, symbolic.

    Args:
        block: a block of a model.
        tokens: its tokens, or the result of a layer that changes each of them alone.

    Returns:
        `(b, n, d)`. Tokens that were merged are repeated.
    """
    if isinstance(block, HaltingBlock):
        raise ValueError(
            "Features of patches need every token in every block, and tokens of this "
            "model stop. Use model.with_token_reduction(None)."
        )
    if not isinstance(block, MergingBlock):
        return tokens
    return unmerge_tokens(tokens, block.output[2])


def keeps_tokens(model: Any) -> bool:
    """Return True if all blocks of a model have the same tokens."""
    reduced = MergingBlock | HaltingBlock
    return not any(isinstance(layer, reduced) for layer in model.layers)


def halts(model: Any) -> bool:
    """Return True if tokens of a model stop, each at its own depth."""
    return any(isinstance(layer, HaltingBlock) for layer in model.layers)


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
