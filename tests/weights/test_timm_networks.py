"""Checkpoints of every ViT-like network of timm, as `recipes.compatibility` builds them.

Each checkpoint must give the outputs of timm or raise an error. The networks are small
and every weight is perturbed. If an error asks for an argument, the comparison passes
that argument and tries again, until the outputs match or the error asks for nothing new.
The test requires timm, which requires torch.
"""

import collections
import json
import re

import pytest

import keras_vit
import recipes.compatibility  # noqa: F401, makes timm importable without torchvision

pytest.importorskip("torch", reason="checkpoints of timm are NOT TESTED")
pytest.importorskip("timm", reason="checkpoints of timm are NOT TESTED")
from recipes.compatibility import networks, timm_networks

pytestmark = [
    pytest.mark.any_backend,
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.mark.parametrize(
    ("name", "with_config", "bare"),
    [
        ("vit_tiny_patch16_224", "exact", "exact"),
        ("vit_small_patch14_reg4_dinov2", "exact", "exact"),
        ("deit3_small_patch16_224", "exact", "exact"),
        ("vit_so400m_patch14_siglip_224", "exact", "exact"),
        ("eva_large_patch14_196", "exact", "exact"),
        ("vit_tiny_r_s16_p8_224", "exact", "exact"),
        ("vit_small_r26_s32_384", "exact", "exact"),
        ("vit_base_r50_s16_224", "exact", "exact"),
        ("vit_base_patch16_rpn_224", "exact", "exact"),
        ("vit_small_patch16_rope_ape_224", "exact", "exact"),
        ("vit_small_patch16_dinov3", "exact", "exact"),
        ("test_vit3", "exact", "exact"),
        ("vit_base_patch16_clip_224", "exact", "exact"),
        ("vit_relpos_base_patch16_clsgap_224", "exact", "exact"),
        ("vit_srelpos_small_patch16_224", "exact", "exact"),
        ("vit_giant_patch14_dinov2", "exact", "exact"),
        ("vit_dwee_patch16_reg1_gap_256", "does not have", "does not have"),
    ],
)
def test_kinds(name, with_config, bare):
    """Check networks of each kind."""
    row = networks.check_timm(name)
    for config, expected in (("published", with_config), ("bare", bare)):
        outcome = row[config]
        found = outcome["verdict"] if expected == "exact" else outcome["reason"]
        assert expected in found


def test_names_in_messages_are_no_examples(tmp_path):
    """Check that messages name no other network, which a user might copy."""
    for name, config in (
        ("vit_giant_patch14_dinov2", "bare"),
        ("vit_dwee_patch16_reg1_gap_256", "published"),
        ("vit_dwee_patch16_reg1_gap_256", "saved"),
        ("vit_small_patch16_rope_ape_224", "bare"),
    ):
        path = timm_networks.save(timm_networks.build(name), tmp_path, config)
        with pytest.raises(ValueError, match=r"architecture=\.\.\.") as error:
            keras_vit.load_checkpoint(path, num_heads=3)
        assert not re.search(r"'vit_\w+_224'", str(error.value).split("describes")[0])
        assert "architecture='" not in str(error.value)


@pytest.mark.slow
def test_every_network():
    names = timm_networks.names()
    assert len(names) > 290
    failures, counts = [], collections.Counter()
    for name in names:
        row = networks.check("timm", name)
        for config in ("published", "saved", "bare"):
            verdict = row[config]["verdict"] if config in row else "failed"
            counts[f"{config}: {verdict}"] += 1
            if verdict not in ("exact", "refused"):
                failures.append(row)
    print(json.dumps(counts))
    assert not failures, "\n".join(map(str, failures))
