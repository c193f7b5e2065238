"""Table of timm's architectures, with the arguments that no tensor shows."""

import difflib
import importlib.resources
import re
import tomllib
from typing import Any, NamedTuple


class Architecture(NamedTuple):
    """Defaults of an architecture in timm's code.

    Attributes:
        kind: str, class of the model: `"vit"`, `"eva"`, `"beit"` or `"relpos"`.
        arguments: dict of those of the model's arguments that the table has.
    """

    kind: str
    arguments: dict[str, Any]


def _read_table():
    """Read the architectures in `keras_vit/data/timm_architectures.toml`."""
    file = importlib.resources.files("keras_vit").joinpath(
        "data", "timm_architectures.toml"
    )
    for group in tomllib.loads(file.read_text("utf-8"))["groups"]:
        for name in group["names"]:
            yield name, Architecture(group["kind"], group["arguments"])


ARCHITECTURES = dict(_read_table())


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
    return ARCHITECTURES.get(name) or (ARCHITECTURES.get(old[1]) if old else None)


def similar_architectures(name: str) -> str:
    """Return the most similar names in the table as text for an error message."""
    close = difflib.get_close_matches(name, ARCHITECTURES, n=3, cutoff=0.0)
    return ", ".join(map(repr, close))
