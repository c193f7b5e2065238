import dataclasses
import re

import pytest

import keras_vit
from keras_vit.layers.preprocessor import RESIZES
from keras_vit.weights.registry import find_checkpoint
from keras_vit.weights.timm_architectures import find_architecture

pytestmark = pytest.mark.any_backend

ROWS = keras_vit.checkpoints()
VARIANTS = [name for name, row in ROWS.items() if row.source == "keras_vit"]
OTHERS = [name for name in ROWS if name not in VARIANTS]


def test_rows():
    for name in VARIANTS:
        check_variant(name)
    for name in OTHERS:
        check_other(name)


def check_other(name):
    """Check a row that `recipes.catalogue` wrote."""
    row = ROWS[name]
    assert row.license, name
    assert row.family, name
    assert row.source in ("timm", "transformers", "KerasHub"), name
    assert (row.imagenet_top1 is None) == (row.top1_resolution is None), name
    assert row.imagenet_top1 is None or 30 < row.imagenet_top1 < 92, name
    if row.source == "timm":
        architecture, tag = name.split(".")
        assert row.architecture == architecture, name
        assert tag, name
        if row.family == "BiT":
            assert re.fullmatch(r"resnetv2_\d+x\d_bit", architecture), name
        else:
            assert find_architecture(architecture) is not None, name
        patch = re.search(r"patch(\d+)|_s(\d+)(_p8)?_|mci|flex|test|resnet", name)
        assert patch, name
        if patch[1]:
            # timm ignores the last 6 of 384 pixels, which no patch of 14 covers.
            ignored = 6 if "patch14_siglip" in name and row.resolution == 384 else 0
            assert (row.resolution - ignored) % int(patch[1]) == 0, name
        assert row.resize in RESIZES, name
        assert row.crop_fraction is None or 0 < row.crop_fraction <= 1, name
        assert keras_vit.layers.Preprocessor(image_size=(8, 8), **row.preprocessing)
        assert row.url.startswith("https://huggingface.co/"), name
        assert row.url.endswith(".safetensors"), name
    else:
        assert row.preprocessing is None, name
        start = {"transformers": f"hf://{name}", "KerasHub": "kaggle://keras/"}
        assert row.url.startswith(start[row.source]), name
    assert row.gated == ("dinov3" in name and row.source != "timm"), name
    assert find_checkpoint(name) is row


def check_variant(name):
    row = ROWS[name]
    architecture, rest = name.split(".")
    family = {"T2TViT": "t2t_vit_", "ViT": "vit_"}
    prefix = re.match("(T2T)?ViT", row.architecture)[0]
    assert architecture == row.architecture.replace(prefix, family[prefix]).lower()
    assert rest.endswith(f"_{row.resolution}")
    assert hasattr(keras_vit, row.architecture)
    patch_size = int(re.search(r"\d+$", row.architecture)[0])
    if prefix == "T2TViT":  # The name has the number of layers.
        patch_size = 16
    assert row.resolution % patch_size == 0
    assert ("_ft_in1k" in name) == (len(row.training_data) == 2)
    assert (row.imagenet_top1 is None) == (row.top1_source is None)
    assert row.imagenet_top1 is None or 70 < row.imagenet_top1 < 90
    assert row.top1_source in ("Google", "timm", "T2T-ViT", None)
    assert row.imagenet_top1 is None or row.training_data[-1] == "ImageNet-1k"
    assert row.normalization in ("inception", "imagenet")
    assert row.resize in ("bilinear", "bicubic_antialias")
    assert row.crop_fraction in (None, 0.9, 1.0)
    assert row.sha256 is None or re.fullmatch("[0-9a-f]{64}", row.sha256)
    assert re.fullmatch(
        r"https://storage\.googleapis\.com/vit_models/[\w./+-]+\.npz"
        r"|https://huggingface\.co/timm/[\w.]+/resolve/main/model\.safetensors"
        r"|https://github\.com/yitu-opensource/T2T-ViT/releases/download/main/[\w.]+",
        row.url,
    )
    assert find_checkpoint(name) is row


def test_hashes():
    hashes = [row.sha256 for row in ROWS.values() if row.sha256]
    assert len(set(hashes)) == len(hashes) == 18
    # The hash is stated on the page of the file on the Hugging Face Hub.
    row = keras_vit.checkpoints()["vit_b16.dino_in1k_224"]
    assert "/timm/vit_base_patch16_224.dino/resolve/main/" in row.url
    assert row.sha256[:8] == "93181583"


def test_every_name_is_another_file():
    assert len({row.url for row in map(ROWS.get, VARIANTS)}) == len(VARIANTS)
    # timm gives one file two names if its network has two kinds of GELU.
    assert len({(row.url, row.architecture) for row in ROWS.values()}) == len(ROWS)


def test_names_of_timm_for_the_variants():
    row = find_checkpoint("vit_small_patch14_dinov2.lvd142m")
    assert row is ROWS["vit_s14.dinov2_lvd142m_518"]


def test_families():
    assert {row.family for row in keras_vit.checkpoints("SigLIP 2").values()} == {
        "SigLIP 2"
    }
    assert "flexivit_small.300ep_in1k" in keras_vit.checkpoints("flexivit")


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (
            "vit_b16.augreg_in21k_ft_in1k_384",
            "augreg/B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0"
            "--imagenet2012-steps_20k-lr_0.03-res_384.npz",
        ),
        (
            "vit_r50l32.augreg_in21k_224",
            "augreg/R50_L_32-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.1-sd_0.1.npz",
        ),
        (
            "vit_s16.augreg_in1k_384",
            "augreg/S_16-i1k-300ep-lr_0.001-aug_medium2-wd_0.1-do_0.0-sd_0.0"
            "--imagenet2012-steps_20k-lr_0.01-res_384.npz",
        ),
        ("vit_b16.orig_in21k_ft_in1k_224", "imagenet21k+imagenet2012/ViT-B_16-224.npz"),
    ],
)
def test_file_names_as_google_published_them(name, path):
    assert ROWS[name].url == f"https://storage.googleapis.com/vit_models/{path}"


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("vit_s16.deit_in1k_224", "deit_small_patch16_224.fb_in1k"),
        ("vit_b16.deit_distilled_in1k_384", "deit_base_distilled_patch16_384.fb_in1k"),
        ("vit_h14.deit3_in22k_ft_in1k_224", "deit3_huge_patch14_224.fb_in22k_ft_in1k"),
        ("vit_l14.dinov2_reg4_lvd142m_518", "vit_large_patch14_reg4_dinov2.lvd142m"),
        ("vit_b8.dino_in1k_224", "vit_base_patch8_224.dino"),
    ],
)
def test_repositories_as_timm_published_them(name, repository):
    assert ROWS[name].url.split("/")[4] == repository


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("t2t_vit_14.orig_in1k_384", "83.3_T2T_ViT_14.pth.tar"),
        ("t2t_vit_t24.orig_in1k_224", "82.6_T2T_ViTt_24.pth.tar"),
    ],
)
def test_files_as_the_authors_of_t2t_vit_published_them(name, file):
    assert ROWS[name].url.rsplit("/", 1)[1] == file


def test_patterns():
    names = list(keras_vit.checkpoints("ViT_B16*ft_in1k_384"))
    assert names == [
        "vit_b16.augreg_in21k_ft_in1k_384",
        "vit_b16.orig_in21k_ft_in1k_384",
        "vit_b16.deit3_in22k_ft_in1k_384",
    ]
    assert set(names) < set(keras_vit.checkpoints("b16")) < set(ROWS)
    nothing = keras_vit.checkpoints("alexnet")
    assert len(nothing) == 0
    assert repr(nothing) == "no checkpoints"


def test_the_table_prints_a_line_a_row():
    lines = repr(keras_vit.checkpoints("deit_distilled")).splitlines()
    assert lines[0].split()[:3] == ["name", "architecture", "trained"]
    assert len(lines) == 5
    assert lines[-1].startswith("vit_b16.deit_distilled_in1k_384  ")
    assert "85.44" in lines[-1]
    assert lines[0].split()[-2:] == ["sha256", "url"]
    assert lines[-1].endswith(ROWS["vit_b16.deit_distilled_in1k_384"].url)
    assert "crop 1.0" in lines[-1]
    assert {line.index("ImageNet-1k") for line in lines[1:]} == {
        lines[0].index("trained")
    }


def test_the_list_is_safe_from_its_readers():
    keras_vit.checkpoints().clear()
    assert keras_vit.checkpoints() == ROWS
    with pytest.raises(dataclasses.FrozenInstanceError):
        ROWS["vit_h14.orig_in21k_224"].url = ""


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match=r"vit_b16\.augreg_in21k_ft_in1k_384") as error:
        find_checkpoint("ViT_B16.augreg_in21k_ft_in1k_38")
    assert "keras_vit.checkpoints()" in str(error.value)
    with pytest.raises(ValueError, match=r"'x'\. keras_vit\.checkpoints"):
        find_checkpoint("x")
