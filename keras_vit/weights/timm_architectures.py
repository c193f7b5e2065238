"""Table of timm's plain ViT architectures, with settings that no tensor shows."""

import difflib
import re
from typing import NamedTuple


class Architecture(NamedTuple):
    """Default settings of an architecture in timm's code.

    Attributes:
        num_heads: int, number of attention heads.
        pooling: str, timm's `global_pool`.
        activation: str, timm's `act_layer`.
    """

    num_heads: int
    pooling: str
    activation: str


# From timm 1.0.31, grouped by `num_heads`, `pooling` and `activation`. Architectures with
# other layers (rotary positions, norms after the branches, pooling over registers, gated
# MLPs, convolutional stems, ...) are omitted. Some of them have exactly the same tensors
# as a plain ViT but give other outputs.
_NAMES = {
    (2, "avg", "gelu"): """
        test_vit2
    """,
    (2, "token", "gelu"): """
        test_vit
    """,
    (3, "token", "gelu"): """
        deit_tiny_distilled_patch16_224 deit_tiny_patch16_224 vit_tiny_patch16_224
        vit_tiny_patch16_384
    """,
    (4, "avg", "gelu"): """
        vit_wee_patch16_reg1_gap_256
    """,
    (5, "avg", "gelu"): """
        vit_little_patch16_reg1_gap_256 vit_little_patch16_reg4_gap_256
    """,
    (6, "token", "gelu"): """
        deit3_small_patch16_224 deit3_small_patch16_384
        deit_small_distilled_patch16_224 deit_small_patch16_224 flexivit_small
        vit_small_patch14_dinov2 vit_small_patch14_reg4_dinov2
        vit_small_patch16_224 vit_small_patch16_36x1_224 vit_small_patch16_384
        vit_small_patch32_224 vit_small_patch32_384 vit_small_patch8_224
    """,
    (8, "avg", "gelu"): """
        vit_medium_patch16_gap_240 vit_medium_patch16_gap_256
        vit_medium_patch16_gap_384 vit_medium_patch16_reg1_gap_256
        vit_medium_patch16_reg4_gap_256 vit_mediumd_patch16_reg4_gap_256
        vit_mediumd_patch16_reg4_gap_384
    """,
    (8, "token", "gelu"): """
        deit3_medium_patch16_224
    """,
    (10, "avg", "gelu"): """
        vit_betwixt_patch16_gap_256 vit_betwixt_patch16_reg1_gap_256
        vit_betwixt_patch16_reg4_gap_256 vit_betwixt_patch16_reg4_gap_384
    """,
    (12, "avg", "gelu"): """
        vit_base_patch16_reg4_gap_256 vit_base_patch16_siglip_gap_224
        vit_base_patch16_siglip_gap_256 vit_base_patch16_siglip_gap_384
        vit_base_patch16_siglip_gap_512
    """,
    (12, "avg", "gelu_tanh"): """
        vit_base_patch32_siglip_gap_256
    """,
    (12, "map", "gelu"): """
        vit_base_patch16_siglip_224 vit_base_patch16_siglip_256
        vit_base_patch16_siglip_384 vit_base_patch16_siglip_512
    """,
    (12, "map", "gelu_tanh"): """
        vit_base_patch32_siglip_256
    """,
    (12, "token", "gelu"): """
        deit3_base_patch16_224 deit3_base_patch16_384
        deit_base_distilled_patch16_224 deit_base_distilled_patch16_384
        deit_base_patch16_224 deit_base_patch16_384 flexivit_base
        vit_base_patch14_dinov2 vit_base_patch14_reg1_tipsv2
        vit_base_patch14_reg4_dinov2 vit_base_patch16_224
        vit_base_patch16_224_miil vit_base_patch16_384 vit_base_patch32_224
        vit_base_patch32_384 vit_base_patch8_224
    """,
    (13, "avg", "gelu"): """
        vit_so150m2_patch16_reg1_gap_256 vit_so150m2_patch16_reg1_gap_384
        vit_so150m2_patch16_reg1_gap_448
    """,
    (14, "avg", "gelu"): """
        vit_so150m_patch16_reg4_gap_256 vit_so150m_patch16_reg4_gap_384
    """,
    (14, "map", "gelu"): """
        vit_so150m_patch16_reg4_map_256
    """,
    (14, "token", "gelu"): """
        vit_base_patch16_plus_240 vit_base_patch32_plus_256
    """,
    (16, "avg", "gelu"): """
        eva_large_patch14_196 eva_large_patch14_336 vit_base_patch16_gap_224
        vit_giant_patch16_gap_224 vit_huge_patch14_gap_224
        vit_huge_patch16_gap_448 vit_large_patch16_siglip_gap_256
        vit_large_patch16_siglip_gap_384 vit_so400m_patch14_siglip_gap_224
        vit_so400m_patch14_siglip_gap_378 vit_so400m_patch14_siglip_gap_384
        vit_so400m_patch14_siglip_gap_448 vit_so400m_patch14_siglip_gap_896
    """,
    (16, "avg", "gelu_tanh"): """
        vit_giantopt_patch16_siglip_gap_256 vit_giantopt_patch16_siglip_gap_384
        vit_large_patch16_siglip_gap_512 vit_so400m_patch16_siglip_gap_256
        vit_so400m_patch16_siglip_gap_384 vit_so400m_patch16_siglip_gap_512
    """,
    (16, "map", "gelu"): """
        vit_large_patch16_siglip_256 vit_large_patch16_siglip_384
        vit_so400m_patch14_siglip_224 vit_so400m_patch14_siglip_378
        vit_so400m_patch14_siglip_384
    """,
    (16, "map", "gelu_tanh"): """
        vit_giantopt_patch16_siglip_256 vit_giantopt_patch16_siglip_384
        vit_large_patch16_siglip_512 vit_so400m_patch16_siglip_256
        vit_so400m_patch16_siglip_384 vit_so400m_patch16_siglip_512
    """,
    (16, "token", "gelu"): """
        deit3_huge_patch14_224 deit3_large_patch16_224 deit3_large_patch16_384
        flexivit_large vit_giant_patch14_224 vit_gigantic_patch14_224
        vit_huge_patch14_224 vit_large_patch14_224 vit_large_patch14_dinov2
        vit_large_patch14_reg1_tipsv2 vit_large_patch14_reg4_dinov2
        vit_large_patch16_224 vit_large_patch16_384 vit_large_patch32_224
        vit_large_patch32_384 vit_so400m_patch14_reg1_tipsv2
    """,
}
ARCHITECTURES = {
    name: Architecture(*facts)
    for facts, names in _NAMES.items()
    for name in names.split()
}


def find_architecture(name: str) -> Architecture | None:
    """Look up an architecture by timm's name for it.

    Args:
        name: str, a current name with or without tag, or an old name. For example,
            `"vit_base_patch16_224"`, `"vit_base_patch16_224.augreg_in21k"` or
            `"vit_base_patch16_224_in21k"`.

    Returns:
        An `Architecture`, or None if the name is not that of a plain ViT.
    """
    name = name.partition(".")[0]
    old = re.fullmatch(r"(.*)_(in21k|sam|dino|in21ft1k)", name)
    return ARCHITECTURES.get(name) or (ARCHITECTURES.get(old[1]) if old else None)


def similar_architectures(name: str) -> str:
    """Return the most similar names in the table as text for an error message."""
    close = difflib.get_close_matches(name, ARCHITECTURES, n=3, cutoff=0.0)
    return ", ".join(map(repr, close))
