"""Kinds of positions by the words that constructors take for them."""

from typing import Any

from keras_vit.choices import check_choice
from keras_vit.layers.base import restored
from keras_vit.layers.positions import (
    AttentionPositions,
    LearnedPositions,
    LearnedPositions2D,
    SinCosPositions1D,
    SinCosPositions2D,
)
from keras_vit.layers.relative_positions import (
    RelativePositionBias,
    RelativePositionMLP,
    RelativePositions,
)
from keras_vit.layers.rotary import MixedRotaryPositions, RotaryPositions

# Positions that are added to the tokens.
ADDED_POSITIONS = {
    "learned": LearnedPositions,
    "learned_2d": LearnedPositions2D,
    "sincos_2d": SinCosPositions2D,
    "sincos_1d": SinCosPositions1D,
}
# Positions that act inside of the attention.
ATTENTION_POSITIONS: dict[str, type[AttentionPositions]] = {
    "relative": RelativePositions,
    "relative_bias": RelativePositionBias,
    "relative_mlp": RelativePositionMLP,
    "rope_axial": RotaryPositions,
    "rope_mixed": MixedRotaryPositions,
}
POSITION_KINDS = (*ADDED_POSITIONS, *ATTENTION_POSITIONS, "none")


def split_positions(positions: Any) -> tuple[str, AttentionPositions | None]:
    """Return the positions that are added to the tokens, and those of the attention.

    Args:
        positions: a word of `POSITION_KINDS`, a layer that acts inside of the attention,
            its config, or a list of one or two of these.

    Returns:
        The word of the added positions or `"none"`, and a layer or None.

    Raises:
        ValueError: unknown positions, or two of the same place.
    """
    several = positions if isinstance(positions, list | tuple) else [positions]
    added: list[str] = []
    inside: list[AttentionPositions] = []
    for position in several:
        position = restored(position)
        if isinstance(position, AttentionPositions):
            inside.append(position)
            continue
        if not isinstance(position, str):
            raise ValueError(
                f"positions must be one of {', '.join(map(repr, POSITION_KINDS))}, a "
                "layer such as keras_vit.layers.RotaryPositions(), or a list of these; "
                f"received {positions!r}."
            )
        check_choice("positions", position, POSITION_KINDS)
        if position in ADDED_POSITIONS:
            added.append(position)
        elif position in ATTENTION_POSITIONS:
            inside.append(ATTENTION_POSITIONS[position]())
    if len(added) > 1 or len(inside) > 1:
        raise ValueError(
            "positions may have one kind that is added to the tokens "
            f"({', '.join(map(repr, ADDED_POSITIONS))}) and one that acts inside of the "
            f"attention; received {positions!r}."
        )
    return (added or ["none"])[0], inside[0] if inside else None


def check_positions(positions: Any, width: int, head_width: int) -> None:
    """Raise a `ValueError` unless tokens and heads of these widths may have positions."""
    added, inside = split_positions(positions)
    if added in ADDED_POSITIONS:
        ADDED_POSITIONS[added].check_width(width)
    if inside is not None:
        inside.check_width(head_width)
