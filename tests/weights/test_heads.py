"""Numbers of attention heads of bare files, which no tensor shows."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from keras_vit.weights.detect import open_checkpoint
from keras_vit.weights.timm_architectures import heads_of_size
from keras_vit.weights.transformers.clip import ClipSource
from keras_vit.weights.transformers.dinov3 import Dinov3Source

pytestmark = pytest.mark.any_backend


def bare_timm(path, width, depth, mlp_dim, **changes):
    """Write a file with the shapes of a plain ViT and return its configuration."""
    shapes = {
        "patch_embed.proj.weight": (width, 1, 2, 2),
        "patch_embed.proj.bias": (width,),
        "cls_token": (1, 1, width),
        "pos_embed": (1, 5, width),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for block in range(depth):
        shapes[f"blocks.{block}.norm1.bias"] = (width,)
    shapes |= {
        "blocks.0.attn.qkv.weight": (3 * width, width),
        "blocks.0.attn.qkv.bias": (3 * width,),
        "blocks.0.attn.proj.bias": (width,),
        "blocks.0.norm2.weight": (width,),
        "blocks.0.norm2.bias": (width,),
        "blocks.0.mlp.fc1.weight": (mlp_dim, width),
        "blocks.0.mlp.fc2.weight": (width, mlp_dim),
    }
    tensors = {name: np.zeros(shape, "float16") for name, shape in shapes.items()}
    for name in [name for name, change in changes.items() if change is None]:
        del tensors[name.replace("__", ".")]
    added = {n.replace("__", "."): x for n, x in changes.items() if x is not None}
    save_file({**tensors, **added}, path)
    return open_checkpoint(path).infer_config({})


@pytest.mark.parametrize(
    ("size", "num_heads"),
    [
        ((192, 12, 768), 3),
        ((384, 12, 1536), 6),
        ((768, 12, 3072), 12),
        ((1024, 24, 4096), 16),
        ((640, 12, 2560), 10),
        ((768, 8, 2304), None),  # Once vit_small_patch16_224, with 8 heads.
        ((384, 12, 1024), None),
        ((768, 11, 3072), None),
    ],
)
def test_heads_that_follow_from_the_size(tmp_path, size, num_heads):
    path = tmp_path / "bare.safetensors"
    if num_heads is not None:
        assert bare_timm(path, *size)["num_heads"] == num_heads
    else:
        with pytest.raises(ValueError, match=r"Pass num_heads=\.\.\. or architecture="):
            bare_timm(path, *size)


def test_heads_of_a_size_with_two_numbers(tmp_path):
    path, size = tmp_path / "bare.safetensors", (768, 12, 3072)
    positions = np.zeros((1, 4, 768), "float16")
    with pytest.raises(ValueError, match=r"have 12 or 16\. Pass num_heads"):
        bare_timm(path, *size, cls_token=None, pos_embed=positions)
    norm = dict.fromkeys(("fc_norm__weight", "fc_norm__bias"), np.zeros(768, "float16"))
    norm |= dict.fromkeys(("norm__weight", "norm__bias"))
    assert bare_timm(path, *size, **norm)["num_heads"] == 12


def test_narrowing_stops_at_a_single_number():
    base, poolings = (768, 12, 3072), (True, True, False)
    assert heads_of_size(base, (True, *poolings[1:])) == [12]
    assert heads_of_size(base, (False, False, False)) == [12, 16]
    assert heads_of_size((768, 8, 2304), poolings) == []


def test_heads_of_dinov3():
    """Check that DINOv3 H+ of transformers has more heads than a ViT-H."""
    assert Dinov3Source.published_heads[1280] == 20
    assert ClipSource.published_heads[1280] == 16
