"""Table of timm's architectures, with the arguments that no tensor shows."""

import difflib
import functools
import importlib.resources
import re
import tomllib
from typing import Any, NamedTuple


class Architecture(NamedTuple):
    """Defaults of an architecture in timm's code.

    Attributes:
        kind: str, class of the model: `"vit"`, `"eva"`, `"beit"`, `"relpos"` or
            `"naflex"`.
        arguments: dict of those of the model's arguments that the table has.
    """

    kind: str
    arguments: dict[str, Any]


@functools.cache
def _tables():
    """Read `keras_vit/data/timm_architectures.toml` when it is first needed."""
    file = importlib.resources.files("keras_vit").joinpath(
        "data", "timm_architectures.toml"
    )
    tables = tomllib.loads(file.read_text("utf-8"))
    architectures = {
        name: Architecture(group["kind"], group["arguments"])
        for group in tables["groups"]
        for name in group["names"]
    }
    return architectures, tables["sizes"]


def architectures() -> dict[str, Architecture]:
    """Return the table of all architectures, by timm's current names."""
    return _tables()[0]


def find_architecture(name: str) -> Architecture | None:
    """Look up an architecture by timm's name for it.

    Args:
        name: str, a current name with or without tag, or an old name. For example,
            `"vit_base_patch16_224"`, `"vit_base_patch16_224.augreg_in21k"` or
            `"vit_base_patch16_224_in21k"`.

    Returns:
        An `Architecture`, or None if the table does not have the name.
    """
    name = name.partition(".")[0]
    old = re.fullmatch(r"(.*)_(in21k|sam|dino|in21ft1k)", name)
    table = architectures()
    return table.get(name) or (table.get(old[1]) if old else None)


def heads_of_size(size: tuple[int, int, int], traits: tuple[bool, ...]) -> list[int]:
    """Return the numbers of attention heads of timm's networks of a size.

    Args:
        size: width, number of blocks and width of the MLP of a plain ViT.
        traits: whether the network has a class token, a norm after the pooling, and
            attention pooling. They are compared one after the other until a single
            number is left, so that other poolings than the published ones are allowed
            where all networks of the size agree.

    Returns:
        List of the possible numbers; empty if timm has no network of this size.
    """
    rows = [row for row in _tables()[1] if tuple(row[:3]) == size]
    for index, trait in enumerate(traits, start=3):
        if len({row[-1] for row in rows}) > 1:
            rows = [row for row in rows if row[index] == trait]
    return sorted({row[-1] for row in rows})


def similar_architectures(name: str) -> str:
    """Return the most similar names in the table as text for an error message."""
    close = difflib.get_close_matches(name, architectures(), n=3, cutoff=0.0)
    return ", ".join(map(repr, close))
