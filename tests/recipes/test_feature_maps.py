"""Images of the feature maps of each block."""

import sys

import keras
import numpy as np
import pytest

from recipes import feature_maps
from tests.cases import array, random_images, tiny_vit
from tests.conftest import GOLDENS

pytestmark = pytest.mark.any_backend


def test_channels_are_those_of_the_blocks():
    model = tiny_vit(num_layers=4, registers=2)
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), "uint8")
    maps = feature_maps.feature_maps(model, image, 3)
    assert list(maps) == ["block_0", "block_2", "block_3"]
    inputs = model.preprocessor(image[None])
    block = keras.Model(model.input, model.get_layer("block_2").output)
    tokens = array(block(inputs))[0, 3:]
    order = np.argsort(-tokens.var(axis=0))[:3]
    chosen = tokens[:, order]
    expected = (chosen - chosen.min(0)) / (chosen.max(0) - chosen.min(0))
    np.testing.assert_allclose(maps["block_2"], expected.reshape(2, 3, 3), atol=1e-4)


def test_grey_models_and_few_channels():
    model = tiny_vit(input_shape=(16, 24, 1), num_layers=1)
    maps = feature_maps.feature_maps(model, np.zeros((5, 5, 3), "uint8"), 1000)
    assert {name: values.shape for name, values in maps.items()} == {
        "block_0": (2, 3, 16)
    }
    assert np.isfinite(maps["block_0"]).all()


def test_the_command(tmp_path, monkeypatch, capsys):
    image = tmp_path / "photo.png"
    keras.utils.save_img(image, random_images(tiny_vit())[0], scale=True)
    output = tmp_path / "new" / "picture.png"
    golden = GOLDENS / "google_gap.checkpoint.npz"
    command = ["feature_maps", golden, golden, "--image", image, "--output", output]
    monkeypatch.setattr(sys, "argv", list(map(str, command)))
    feature_maps.main()
    assert "block_1: " in capsys.readouterr().out
    assert output.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(sys, "argv", ["feature_maps", "ViTTi16", "--image", "none.png"])
    with pytest.raises(SystemExit, match="2"):
        feature_maps.main()
    monkeypatch.setattr(sys, "argv", ["feature_maps", "nothing.npz"])
    with pytest.raises(SystemExit, match=r"nothing\.npz: "):
        feature_maps.main()
