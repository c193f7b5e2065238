"""Conversion of networks for images of any aspect ratio back to their libraries."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import keras_vit
import recipes.compatibility  # noqa: F401, makes timm importable without torchvision
from keras_vit.convert import convert
from tests.cases import array, mostly_slow
from tests.weights.test_transformers_networks import MLP, build, torch, transformers

pytestmark = pytest.mark.any_backend

layers = keras_vit.layers
SIGLIP2 = {**MLP, "num_patches": 16}
CONFIG = ("architectures", "model_type", "hidden_act", "num_patches", "patch_size")


def assert_equal_tensors(original, written):
    # transformers 5 saves the vision model without a prefix; every version loads both.
    tensors, others = (
        {n.removeprefix("vision_model."): x for n, x in load_file(path).items()}
        for path in (original / "model.safetensors", written / "model.safetensors")
    )
    assert set(tensors) == set(others)
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(others[name], tensor, err_msg=name)


def siglip2_outputs(directory, images, patch=8, dtype=torch.float32):
    """Return the output of transformers' network for images of one size."""
    config = json.loads((directory / "config.json").read_text())
    network_class = getattr(transformers, config["architectures"][0])
    network, info = network_class.from_pretrained(directory, output_loading_info=True)
    assert not any(info.values()), info
    count, height, width, channels = images.shape
    grid = height // patch, width // patch
    patches = images.reshape(count, grid[0], patch, grid[1], patch, channels)
    patches = patches.swapaxes(2, 3).reshape(count, grid[0] * grid[1], -1)
    with torch.no_grad():
        found = network.eval().to(dtype)(
            pixel_values=torch.from_numpy(patches.copy()).to(dtype),
            pixel_attention_mask=torch.ones(patches.shape[:2], dtype=torch.int64),
            spatial_shapes=torch.tensor([grid] * count),
        )
    return (found["logits"] if "logits" in found else found["pooler_output"]).numpy()


@pytest.fixture(scope="module")
def siglip2(tmp_path_factory):
    directory = tmp_path_factory.mktemp("siglip2")
    build("Siglip2VisionModel", SIGLIP2).save_pretrained(directory)
    return directory


def test_siglip_2_is_bit_identical(siglip2, tmp_path):
    target = tmp_path / "new"
    preprocessor = layers.Preprocessor(
        100.0, 50.0, image_size=(32, 32), resize="bilinear_antialias"
    )
    convert(siglip2, target, to="transformers", preprocessor=preprocessor)
    assert_equal_tensors(siglip2, target)
    config, written = (
        json.loads((x / "config.json").read_text()) for x in (siglip2, target)
    )
    assert [config[key] for key in CONFIG] == [written[key] for key in CONFIG]
    # Images of another aspect ratio have the same outputs, too.
    images = np.random.default_rng(0).normal(size=(2, 24, 40, 3)).astype("float32")
    np.testing.assert_array_equal(
        siglip2_outputs(siglip2, images), siglip2_outputs(target, images)
    )
    pixels = json.loads((target / "preprocessor_config.json").read_text())
    assert pixels["image_processor_type"] == "Siglip2ImageProcessor"
    assert (pixels["patch_size"], pixels["max_num_patches"]) == (8, 16)
    assert (pixels["resample"], pixels["image_std"]) == (2, [50 / 255] * 3)


def test_siglip_2_for_larger_images(siglip2, tmp_path):
    target = tmp_path / "new"
    convert(siglip2, target, to="transformers", input_shape=(48, 48, 3))
    model = keras_vit.load_checkpoint(target)
    images = np.random.default_rng(0).normal(size=(2, 48, 48, 3)).astype("float32")
    # The outputs reach 20, where transformers' own float32 is 3.5e-5 off.
    expected = siglip2_outputs(target, images, dtype=torch.float64)
    limit = 2e-6 * np.abs(expected).max()
    np.testing.assert_allclose(array(model(images)), expected, rtol=0, atol=limit)
    assert not (target / "preprocessor_config.json").exists()


def test_siglip_2_for_timm_and_of_a_saved_model(siglip2, tmp_path):
    """Check that both are networks for images of one size."""
    preprocessor = layers.Preprocessor(image_size=(32, 32), resize="bilinear_antialias")
    model = keras_vit.load_checkpoint(siglip2, preprocessor=preprocessor)
    model.save(tmp_path / "model.keras")
    convert(tmp_path / "model.keras", tmp_path / "new", to="transformers")
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    assert config["architectures"] == ["SiglipVisionModel"]
    convert(siglip2, tmp_path / "timm", to="timm", preprocessor=preprocessor)
    config = json.loads((tmp_path / "timm" / "config.json").read_text())
    assert config["architecture"] == "vit_base_patch16_224"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"input_shape": (16, 64, 3)}, "input_shape=(16, 16, 3)"),
        (
            {"preprocessor": layers.Preprocessor(
                image_size=(32, 32), resize="bilinear_antialias", crop_fraction=0.9,
                crop_rounding="floor")},
            "crop_fraction=None",
        ),
    ],
)  # fmt: skip
def test_siglip_2_that_is_refused(siglip2, tmp_path, arguments, named):
    with pytest.raises(ValueError, match=r"transformers.*Nothing was written") as error:
        convert(siglip2, tmp_path / "new", to="transformers", **arguments)
    assert named in str(error.value)
    assert not list(tmp_path.iterdir())


NAFLEX = (
    *("naflexvit_base_patch16_siglip", "naflexvit_base_patch16_par_gap"),
    *("naflexvit_base_patch16_map", "naflexvit_so150m2_patch16_reg1_gap"),
    *("naflexvit_base_patch16_radio_v3", "naflexvit_base_patch16_parfac_gap"),
)
PIXELS = {"resize": "bicubic_antialias", "crop_fraction": None}


@pytest.fixture(scope="module", params=mostly_slow(NAFLEX, *NAFLEX[:2]))
def naflex(request, tmp_path_factory):
    """Return a network of timm, and the directory of its checkpoint."""
    pytest.importorskip("timm", reason="conversion to timm is NOT TESTED")
    from recipes.compatibility import timm_networks

    network = timm_networks.build(request.param)
    directory = tmp_path_factory.mktemp(request.param)
    timm_networks.save(network, directory, "saved")
    return network, directory


def test_naflexvit_is_written_for_timm(naflex, tmp_path):
    import timm

    network, directory = naflex
    target = tmp_path / "new"
    convert(directory, target, to="timm")
    again = timm.create_model(f"local-dir:{target}", pretrained=True).eval()
    is_factorized = "parfac" in directory.name
    if not is_factorized:
        assert_equal_tensors(directory, target)
    # The first size is that of the model; factorized positions differ at other sizes.
    sizes = [(64, 64)] if is_factorized else [(64, 64), (48, 96)]
    for height, width in sizes:
        images = torch.randn(2, 3, height, width)
        with torch.no_grad():
            np.testing.assert_allclose(again(images), network(images), rtol=0, atol=1e-5)
