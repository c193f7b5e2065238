"""Preprocessing of files that do not state it: that of published ones, or an error."""

import types

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.convert import convert
from keras_vit.layers import Preprocessor
from keras_vit.weights.open_clip import OpenClipSource
from keras_vit.weights.published_pixels import (
    pixels_of_architecture,
    pixels_of_dinov3,
    pixels_of_timm,
)
from tests.cases import array
from tests.golden import Golden

pytestmark = pytest.mark.any_backend

IMAGENET, CLIP = 123.675, 255 * 0.48145466
SATELLITE = [255 * x for x in (0.430, 0.411, 0.296)]


def first_mean(settings):
    """Return the mean of the red channel, or None for unknown preprocessing."""
    if not settings:
        return None
    return np.ravel(Preprocessor(image_size=(8, 8), **settings).mean)[0]


@pytest.mark.parametrize(
    ("path", "size", "has_own_norm", "mean"),
    [
        ("dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd.pth", (1024, 24), True, IMAGENET),
        ("dinov3_vitl16_pretrain_sat493m-eadcf0ff.pth", (1024, 24), True, SATELLITE[0]),
        ("dinov3_vit7b16_pretrain_sat493m-a6675841.pth", (4096, 40), True, SATELLITE[0]),
        ("models--facebook--dinov3-vitl16-pretrain-sat493m/snapshots/1/model.safetensors",
         (1024, 24), None, SATELLITE[0]),
        ("renamed.pth", (384, 12), False, IMAGENET),
        ("renamed.pth", (1024, 24), False, IMAGENET),
        ("renamed.pth", (1024, 24), True, SATELLITE[0]),
        ("renamed.pth", (4096, 40), True, None),
        ("model.safetensors", (1024, 24), None, None),
        ("teacher_checkpoint.pth", (48, 2), True, IMAGENET),
    ],
)  # fmt: skip
def test_dinov3(path, size, has_own_norm, mean):
    settings = pixels_of_dinov3(path, size, has_own_norm)
    assert first_mean(settings) == pytest.approx(mean)
    assert settings is None or settings["resize"] == "bilinear_antialias"


@pytest.mark.parametrize(
    ("path", "tensors", "mean"),
    [
        ("dino_deitsmall16_pretrain.pth", (), IMAGENET),
        ("dinov2_vits14_reg4_pretrain.pth", (), IMAGENET),
        ("mae_pretrain_vit_base.pth", (), IMAGENET),
        ("deit_small_patch16_224-cd65a155.pth", (), IMAGENET),
        ("deit_3_base_224_21k.pth", (), IMAGENET),
        ("mine.pth", ("mask_token", "blocks.0.ls1.gamma"), IMAGENET),
        ("mine.pth", ("decoder_embed.weight",), IMAGENET),
        ("mine.pth", ("dist_token",), IMAGENET),
        ("mine.pth", ("blocks.0.ls1.gamma",), None),
        ("my_deit_small_patch16.pth", (), None),
    ],
)
def test_files_with_the_names_of_timm(path, tensors, mean):
    assert first_mean(pixels_of_timm(path, None, tensors)) == mean


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("vit_base_patch16_224", None),
        ("vit_base_patch16_224.dino", IMAGENET),
        ("vit_base_patch16_224.augreg_in21k", 127.5),
        ("deit_small_patch16_224", IMAGENET),
        ("vit_base_patch16_siglip_224", 127.5),
        ("vit_base_patch16_clip_224", CLIP),
        ("vit_large_patch14_clip_224", None),
        ("vit_large_patch16_dinov3.sat493m", SATELLITE[0]),
        ("vit_unknown", None),
    ],
)
def test_architectures_of_timm(name, mean):
    assert first_mean(pixels_of_architecture(name)) == pytest.approx(mean)


@pytest.mark.parametrize(
    ("name", "width", "patch", "mean"),
    [
        ("open_clip_model.safetensors", 768, 16, CLIP),
        ("open_clip_model.safetensors", 1024, 14, None),
        ("vit_l_14-laion400m_e31-69988bb6.pt", 1024, 14, CLIP),
    ],
)
def test_open_clip(tmp_path, name, width, patch, mean):
    path = tmp_path / name
    path.touch()
    shapes = {
        "conv1.weight": (width, 3, patch, patch),
        "transformer.resblocks.0.ln_2.weight": (width,),
    }
    file = types.SimpleNamespace(path=str(path), shapes=shapes, format="")
    assert first_mean(OpenClipSource(file).preprocessing) == mean


def test_unknown_preprocessing(tmp_path):
    """Check that the model computes, and that only its preprocessor raises an error."""
    golden = Golden("timm_token")
    model = golden.load()
    np.testing.assert_allclose(
        array(model(golden.inputs)), golden.outputs, rtol=0, atol=1e-4
    )
    pixels = np.zeros((1, *golden.input_shape), "uint8")
    message = r"Nothing in .*timm_token.*Pass preprocessor="
    model.save(tmp_path / "model.keras")
    saved = keras.saving.load_model(tmp_path / "model.keras")
    for unstated in (model, saved, model.resized((32, 32, 3))):
        with pytest.raises(ValueError, match=message):
            unstated.preprocessor(pixels)
    with pytest.raises(ValueError, match=message):
        convert(golden.path, tmp_path / "timm", to="timm", **golden.overrides)
    saved.preprocessor = Preprocessor(image_size=golden.input_shape[:2])
    saved.preprocessor(pixels)


def test_a_file_of_a_published_name(tmp_path):
    golden = Golden("timm_deit_distilled")
    path = tmp_path / "deit_base_distilled_patch16_224-df68dfff.safetensors"
    path.write_bytes(golden.path.read_bytes())
    preprocessor = keras_vit.load_checkpoint(path, **golden.overrides).preprocessor
    assert preprocessor.mean[0] == IMAGENET
    assert (preprocessor.resize, preprocessor.crop_fraction) == (
        "bicubic_antialias",
        0.875,
    )


def test_transformers_without_a_preprocessor(tmp_path):
    golden = Golden("hf_deit")
    preprocessor = golden.load().preprocessor
    assert preprocessor.mean[0] == IMAGENET
    with pytest.raises(ValueError, match="Pass preprocessor="):
        Golden("hf_vit").load().preprocessor(np.zeros((1, 8, 8, 3), "uint8"))
