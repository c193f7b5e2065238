"""Resizing of position embeddings with 0, 1 and 5 prefix tokens."""

import warnings

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import keras_vit
from keras_vit.layers import resize_grid
from tests.cases import array
from tests.golden import Golden

pytestmark = pytest.mark.any_backend

# Number of prefix tokens of each golden; 5 is a class token with 4 registers.
PREFIX = {"timm_map": 0, "hf_vit": 1, "timm_registers_layerscale": 5}


def positions(model):
    return array(model.get_layer("patch_encoder").positions.embedding)


@pytest.mark.parametrize("name", PREFIX)
@pytest.mark.parametrize(
    "grid",
    [
        (4, 7),
        pytest.param((6, 3), marks=pytest.mark.slow),
        pytest.param((5, 5), marks=pytest.mark.slow),
    ],
)
def test_square_to_rectangular(name, grid):
    golden = Golden(name)
    whole = golden.load()
    patch = whole.get_config()["patch_size"]
    size = (grid[0] * patch, grid[1] * patch, 3)
    resize = "bicubic_antialias" if name.startswith("timm") else "bicubic"
    model = golden.load(input_shape=size)
    assert model.grid_shape == grid
    assert model.num_prefix_tokens == PREFIX[name]
    old, new = positions(whole), positions(model)
    rows = old.shape[1] - 16
    expected = resize_grid(old[0, rows:].reshape(4, 4, -1), grid, resize)
    np.testing.assert_array_equal(new[:, :rows], old[:, :rows])
    np.testing.assert_allclose(new[0, rows:].reshape(*grid, -1), expected, atol=1e-6)
    model.predict(np.zeros((1, *size), "float32"), verbose=0)


def test_rectangular_to_square():
    golden = Golden("timm_token")  # 4x6 patches.
    model = golden.load(input_shape=(64, 64, 3), source_grid_shape=(4, 6))
    old = positions(golden.load())
    expected = resize_grid(old[0, 1:].reshape(4, 6, -1), (4, 4), "bicubic_antialias")
    np.testing.assert_allclose(positions(model)[0, 1:].reshape(4, 4, -1), expected)


def test_196_patches_are_not_taken_for_a_class_token_and_195(tmp_path):
    golden = Golden("timm_map")
    tensors = load_file(golden.path)
    generator = np.random.default_rng(0)
    tensors["pos_embed"] = generator.normal(size=(1, 196, 64)).astype("float32")
    path = tmp_path / "196.safetensors"
    save_file(tensors, path)
    model = keras_vit.load_checkpoint(path, num_heads=4, activation="gelu")
    assert model.grid_shape == (14, 14)
    np.testing.assert_array_equal(positions(model), tensors["pos_embed"])


def test_rows_that_may_be_two_things_are_announced():
    golden = Golden("timm_token")
    with pytest.warns(UserWarning, match=r"read as 1 .*grid of \(4, 6\).*\(5, 5\)"):
        keras_vit.load_checkpoint(golden.path, input_shape=(64, 96, 3), num_heads=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        golden.load(source_grid_shape=(4, 6))
        golden.load(class_token_position=True)


@pytest.mark.parametrize("resize", ["google", "bilinear", "bicubic"])
def test_a_convention_by_name(resize):
    golden = Golden("timm_map")
    model = golden.load(input_shape=(64, 96, 3), resize=resize)
    old = positions(golden.load())[0].reshape(4, 4, -1)
    expected = resize_grid(old, (4, 6), resize).reshape(1, 24, -1)
    np.testing.assert_allclose(positions(model), expected, atol=1e-6)
