"""Adaptation of checkpoints to other numbers of channels and patch sizes."""

import numpy as np
import pytest

import keras_vit
from keras_vit.layers import resize_grid
from keras_vit.weights.patch_kernels import adapt_channels, resize_patches
from tests.cases import random_array
from tests.golden import Golden

pytestmark = pytest.mark.any_backend


def test_one_channel_sees_grey_as_before():
    kernel = random_array(4, 4, 3, 8)
    grey = random_array(4, 4, 1)
    expected = np.einsum("yxc,yxcd->d", np.repeat(grey, 3, axis=2), kernel)
    new = adapt_channels(kernel, 1)
    np.testing.assert_allclose(np.einsum("yxc,yxcd->d", grey, new), expected, atol=1e-5)


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_other_channels_see_a_constant_as_before(channels):
    kernel = random_array(4, 4, 1, 8).repeat(3, axis=2)
    expected = np.einsum("yxc,yxcd->d", np.ones((4, 4, 3)), kernel)
    new = adapt_channels(kernel, channels)
    assert new.shape == (4, 4, channels, 8)
    ones = np.ones((4, 4, channels))
    np.testing.assert_allclose(np.einsum("yxc,yxcd->d", ones, new), expected, rtol=1e-5)


def test_four_channels_formula():
    kernel = random_array(2, 2, 3, 5)
    expected = kernel[:, :, [0, 1, 2, 0]] * 0.75
    np.testing.assert_allclose(adapt_channels(kernel, 4), expected, rtol=1e-6)


@pytest.mark.parametrize("size", [5, 8, 16])
def test_growing_patches_lose_nothing(size):
    kernel, patch = random_array(4, 4, 3, 8), random_array(4, 4, 3)
    expected = np.einsum("yxc,yxcd->d", patch, kernel)
    larger = resize_grid(patch, (size, size), "bilinear_antialias")
    new = resize_patches(kernel, size)
    np.testing.assert_allclose(np.einsum("yxc,yxcd->d", larger, new), expected, atol=1e-4)


def test_shrinking_patches():
    """Check that the resized kernel minimizes the mean squared error of the tokens."""
    kernel = random_array(6, 6, 1, 3)
    basis = np.eye(36).reshape(6, 6, 36)
    shrink = resize_grid(basis, (4, 4), "bilinear").reshape(16, 36)
    expected, *_ = np.linalg.lstsq(shrink.T, kernel.reshape(36, 3), rcond=None)
    new = resize_patches(kernel, 4)
    np.testing.assert_allclose(new.reshape(16, 3), expected, atol=1e-5)


@pytest.mark.any_backend
@pytest.mark.parametrize("size", [3, 4, 6, 12])
def test_resized_patches_are_those_of_flexivit(size, tensorflow):
    """Compare with the formula in Google's code, which resizes unit patches."""
    kernel = random_array(8, 8, 2, 3).astype("float64")
    units = np.eye(64).reshape(64, 8, 8, 1)
    resized = tensorflow.image.resize(units, (size, size), method="bilinear").numpy()
    inverse = np.linalg.pinv(resized.reshape(64, -1).astype("float64"))
    expected = np.einsum("nk,kcd->ncd", inverse, kernel.reshape(64, 2, 3))
    np.testing.assert_allclose(
        resize_patches(kernel, size), expected.reshape(size, size, 2, 3), atol=1e-4
    )


@pytest.mark.parametrize(
    ("name", "channels"),
    [("google_token_prelogits", 1), ("timm_map", 4)],
)
def test_checkpoints_for_other_channels(name, channels):
    golden = Golden(name)
    size = (*golden.input_shape[:2], channels)
    model = golden.load(input_shape=size)
    assert np.size(model.preprocessor.mean) in (1, channels)
    inputs = golden.inputs[..., :1].repeat(channels, axis=-1)
    logits = model.predict(inputs, verbose=0)
    if channels == 1:
        grey = golden.load().predict(inputs.repeat(3, axis=-1), verbose=0)
        np.testing.assert_allclose(logits, grey, atol=1e-4)


def test_a_hybrid_for_one_channel():
    golden = Golden("google_hybrid_stem_only")
    model = golden.load(input_shape=(64, 64, 1))
    root = model.weights_by_path()["stem/root/kernel"]
    assert tuple(root.shape) == (7, 7, 1, 32)
    model.predict(golden.inputs[..., :1], verbose=0)


def test_checkpoints_with_other_patches():
    golden = Golden("google_token_prelogits")
    model = golden.load(patch_size=32, input_shape=(128, 128, 3))
    assert model.grid_shape == (4, 4)
    # Resize each patch separately, so that the pseudo-inverse is exact.
    tiles = golden.inputs.reshape(2, 4, 16, 4, 16, 3).transpose(2, 4, 0, 1, 3, 5)
    larger = resize_grid(tiles.reshape(16, 16, -1), (32, 32), "bilinear_antialias")
    larger = larger.reshape(32, 32, 2, 4, 4, 3).transpose(2, 3, 0, 4, 1, 5)
    larger = larger.reshape(2, 128, 128, 3).astype("float32")
    np.testing.assert_allclose(
        model.predict(larger, verbose=0), golden.outputs, atol=1e-3
    )
    config = golden.load().get_config() | {"patch_size": 32, "input_shape": (128, 128, 3)}
    config["preprocessor"] = None
    with pytest.raises(ValueError, match=r"patches of 16x16, the model of 32x32.*load_"):
        keras_vit.ViT.from_config({**config, "weights": golden.path})
