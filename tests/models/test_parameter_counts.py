"""Exact parameter counts of published models, computed without allocating weights."""

import math
import re

import keras
import pytest

import keras_vit
from keras_vit.models.t2t_variants import T2T_VIT_ARGUMENTS
from keras_vit.models.variants import HYBRID_SIZES, VIT_SIZES
from tests.cases import mostly_slow

pytestmark = pytest.mark.any_backend

# Width, depth, MLP width and heads. The counts do not depend on the heads.
SIZES = {
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "H": (1280, 32, 5120, 16),
    "g": (1408, 40, 6144, 16),
    "G": (1664, 48, 8192, 16),
}

# Counts at 224 pixels for 1000 classes with a class token; GAP: without a class token.
TOKEN = {
    "ViTTi16": 5_717_416,
    "ViTS8": 22_055_272,
    "ViTS14": 22_004_584,
    "ViTS16": 22_050_664,
    "ViTS32": 22_878_952,
    "ViTB8": 86_576_872,
    "ViTB14": 86_475_496,
    "ViTB16": 86_567_656,
    "ViTB32": 88_224_232,
    "ViTL14": 304_203_752,
    "ViTL16": 304_326_632,
    "ViTL32": 306_535_400,
    "ViTH14": 632_045_800,
    "ViTg14": 1_012_611_432,
    "ViTG14": 1_844_440_680,
    "ViTRTi16": 6_337_704,
    "ViTR26S32": 36_431_912,
    "ViTR26B32": 101_383_976,
    "ViTR50B16": 98_659_112,
    "ViTR50L32": 328_994_856,
}
GAP = {"ViTS16": 22_049_896, "ViTB16": 86_566_120, "ViTB32": 88_222_696}
# Counts for 21,843 classes with the representation layer; AUGREG_21K: without it.
IMAGENET_21K = {
    "ViTB16": 103_186_515,
    "ViTB32": 104_843_091,
    "ViTL16": 326_740_307,
    "ViTL32": 328_949_075,
    "ViTH14": 660_385_363,
    "ViTR50B16": 115_277_971,
    "ViTR50L32": 351_408_531,
}
AUGREG_21K = {
    "ViTTi16": 9_740_115,
    "ViTS16": 30_075_219,
    "ViTS32": 30_903_507,
    "ViTB16": 102_595_923,
    "ViTL16": 325_690_707,
    "ViTRTi16": 10_360_403,
    "ViTR26S32": 44_456_467,
    "ViTR50B16": 114_687_379,
    "ViTR50L32": 350_358_931,
}
AT_384 = {"ViTB16": 86_859_496, "ViTL16": 304_715_752}


# Counts of T2T-ViT: trainable weights, and all weights (with positions and features).
T2T = {
    "T2TViT7": (4_255_694, 4_310_222),
    "T2TViT10": (5_834_702, 5_889_230),
    "T2TViT12": (6_887_374, 6_941_902),
    "T2TViT14": (21_465_806, 21_545_550),
    "T2TViT19": (39_085_070, 39_177_422),
    "T2TViT24": (64_000_974, 64_105_934),
    "T2TViTt14": (21_465_422, 21_541_070),
    "T2TViTt19": (39_084_686, 39_172_942),
    "T2TViTt24": (64_000_590, 64_101_454),
    "T2TViT14ResNeXt": (21_465_806, 21_545_550),
    "T2TViT14Wide": (25_000_910, 25_156_302),
    "T2TViT14SE": (21_723_854, 21_803_598),
    "T2TViT16Ghost": (16_173_518, 16_253_262),
    "T2TViTDense": (23_617_750, 23_647_062),
}


def count(name, **overrides):
    """Return the number of parameters of a variant without allocating its weights."""
    return sum(count_both(name, **overrides))


def count_both(name, **overrides):
    """Return the numbers of trainable and of non-trainable parameters."""
    try:
        with keras.StatelessScope(initialize_variables=False):
            model = getattr(keras_vit, name)(**overrides)
            return tuple(
                sum(math.prod(weight.shape) for weight in weights)
                for weights in (model.trainable_weights, model.non_trainable_weights)
            )
    finally:
        # Discard the weights that are still waiting for a value.
        keras.utils.clear_session(free_memory=False)


def count_by_blocks(name, **overrides):
    """Return the number of parameters from models of one and two blocks."""
    depth = {**VIT_SIZES, **HYBRID_SIZES}[name][-3]
    one, two = (count(name, num_layers=layers, **overrides) for layers in (1, 2))
    return one + (depth - 1) * (two - one)


def test_every_variant_has_a_row():
    public = {name for name in keras_vit.__all__ if name.startswith("ViT")} - {"ViT"}
    assert set(TOKEN) == {*VIT_SIZES, *HYBRID_SIZES} == public


@pytest.mark.parametrize("name", VIT_SIZES)
def test_sizes(name):
    model, patch_size = re.fullmatch(r"ViT(\D+)(\d+)", name).groups()
    width, depth, mlp_dim, heads = SIZES[model]
    assert VIT_SIZES[name] == (int(patch_size), width, depth, heads, mlp_dim)


# Grids at 224 pixels, because the number of positions does not determine the grid.
GRIDS = {
    "ViTRTi16": (7, 7),
    "ViTR26S32": (7, 7),
    "ViTR26B32": (7, 7),
    "ViTR50B16": (14, 14),
    "ViTR50L32": (7, 7),
}


@pytest.mark.parametrize("name", HYBRID_SIZES)
def test_hybrid_sizes(name):
    width, depth, mlp_dim, heads = SIZES[re.fullmatch(r"ViTR\d*(\D+)\d+", name)[1]]
    num_blocks, patch_size, *transformer = HYBRID_SIZES[name]
    assert transformer == [width, depth, heads, mlp_dim]
    stem = keras_vit.layers.ResNetStem(num_blocks)
    map_shape = stem.compute_output_shape((None, 224, 224, 3))
    assert tuple(side // patch_size for side in map_shape[1:3]) == GRIDS[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", mostly_slow(TOKEN, "ViTB16"))
def test_class_token(name):
    assert count_by_blocks(name) == TOKEN[name]


@pytest.mark.parametrize("name", mostly_slow(["ViTTi16", "ViTR26S32"], "ViTTi16"))
def test_counts_of_all_blocks(name):
    assert count(name) == TOKEN[name]


def test_every_t2t_vit_has_a_row():
    public = {name for name in keras_vit.__all__ if name.startswith("T2TViT")}
    assert set(T2T) == set(T2T_VIT_ARGUMENTS) == public - {"T2TViT"}


@pytest.mark.slow
@pytest.mark.parametrize("name", mostly_slow(T2T, "T2TViT7", "T2TViT14Wide"))
def test_t2t_vit(name):
    trained, fixed = count_both(name)
    assert (trained, trained + fixed) == T2T[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", mostly_slow(GAP, "ViTB16"))
def test_gap(name):
    assert count_by_blocks(name, pooling="gap") == GAP[name]


@pytest.mark.parametrize("name", mostly_slow(IMAGENET_21K, "ViTB16"))
def test_imagenet_21k_with_representation_layer(name):
    width = {**VIT_SIZES, **HYBRID_SIZES}[name][-4]
    counted = count_by_blocks(name, classes=21_843, representation_size=width)
    assert counted == IMAGENET_21K[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", mostly_slow(AUGREG_21K, "ViTRTi16"))
def test_imagenet_21k_without_representation_layer(name):
    assert count_by_blocks(name, classes=21_843) == AUGREG_21K[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", HYBRID_SIZES)
@pytest.mark.parametrize("classes", [1000, 21_843])
@pytest.mark.parametrize("layer", [False, True])
def test_hybrids_with_every_head(name, classes, layer):
    """Check the published count at 1000 classes plus the difference between the heads."""
    width = HYBRID_SIZES[name][-4]
    expected = TOKEN[name] + (classes - 1000) * (width + 1)
    expected += width * (width + 1) if layer else 0
    arguments = {"representation_size": width} if layer else {}
    assert count_by_blocks(name, classes=classes, **arguments) == expected
    for table in (IMAGENET_21K,) if layer else (AUGREG_21K,):
        if classes == 21_843 and name in table:
            assert expected == table[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", mostly_slow(AT_384, "ViTB16"))
def test_384_pixels(name):
    assert count_by_blocks(name, input_shape=(384, 384, 3)) == AT_384[name]


def test_a_count_by_shapes_equals_that_of_a_real_model():
    real = keras_vit.ViTTi16()
    assert sum(w.numpy().size for w in real.weights) == TOKEN["ViTTi16"]
