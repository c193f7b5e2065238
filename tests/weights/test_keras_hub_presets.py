"""KerasHub presets: the head and the preprocessing that their configurations state."""

import json
import shutil

import numpy as np
import pytest

from keras_vit.layers import Preprocessor
from keras_vit.weights.detect import open_checkpoint
from tests.cases import array
from tests.golden import Golden

pytestmark = pytest.mark.any_backend


def preset(tmp_path, config=None, task=None, converter=None):
    """Open a KerasHub preset after changing its JSON files."""
    golden = Golden("keras_hub_gap")
    directory = tmp_path / "preset"
    shutil.copytree(golden.path, directory, dirs_exist_ok=True)
    for name, change in (("config.json", config), ("task.json", task)):
        content = json.loads((directory / name).read_text())
        content["config"] |= change or {}
        if name == "task.json":
            content["config"]["preprocessor"] = None
        (directory / name).write_text(json.dumps(content))
    if converter is not None:
        text = json.dumps({"config": converter})
        (directory / "image_converter.json").write_text(text)
    return open_checkpoint(directory)


@pytest.mark.parametrize("activation", ["sigmoid", "softmax", None])
def test_the_head_that_keras_hub_states(tmp_path, activation):
    config = preset(tmp_path, task={"activation": activation}).infer_config({})
    assert config["classifier_activation"] == activation


@pytest.mark.parametrize(
    ("converter", "expected"),
    [
        ({"scale": 1 / 255}, {"mean": 0.0, "std": 255.0, "image_size": None}),
        ({"interpolation": "nearest"}, "interpolation of 'nearest'"),
        ({"pad_to_aspect_ratio": True}, "pad_to_aspect_ratio=True"),
        ({"image_size": [7, 7]}, r"image_size=\[7, 7\]"),
    ],
)
def test_keras_hubs_preprocessing(tmp_path, converter, expected):
    source = preset(tmp_path, converter=converter)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=f"{expected}.*preprocessor="):
            source.preprocessing  # noqa: B018
    else:
        assert source.preprocessing == pytest.approx(expected)


@pytest.mark.parametrize("uint8", [False, True])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"antialias": False},
        {"interpolation": "bicubic"},
        {"crop_to_aspect_ratio": False},
    ],
)
def test_keras_hubs_pixels(tmp_path, changes, uint8):
    layers = pytest.importorskip("keras_hub", reason="has the converter").layers
    path = Golden("keras_hub_gap").path / "image_converter.json"
    config = {**json.loads(path.read_text())["config"], **changes}
    converter = layers.ViTImageConverter.from_config(config)
    height, width = config["image_size"]
    source = preset(tmp_path, converter=config)
    preprocessor = Preprocessor(**{"image_size": (height, width), **source.preprocessing})
    random = np.random.default_rng(0)
    for size in [(90, 301), (301, 90), (127, 127), (20, 31), (height, width), (1, 9)]:
        # The values are such that a bicubic resize stays within 0 to 255.
        images = random.integers(80, 176, (1, *size, 3)).astype("uint8")
        images = images if uint8 else images.astype("float32")
        # KerasHub rounds the pixels of uint8 images. One gray level is 1 / 127.5.
        np.testing.assert_allclose(
            array(preprocessor(images)),
            array(converter(images)),
            rtol=0,
            atol=0.51 / 127.5 if uint8 else 1e-5,
        )


def test_keras_hubs_mean_with_a_class_token(tmp_path):
    golden = Golden("keras_hub_token")
    shutil.copytree(golden.path, tmp_path / "preset")
    path = tmp_path / "preset" / "task.json"
    task = json.loads(path.read_text())
    task["config"]["pooling"] = "gap"
    path.write_text(json.dumps(task))
    source = open_checkpoint(tmp_path / "preset")
    with pytest.raises(ValueError, match=r"averages the class token.*include_top=False"):
        source.infer_config({})
    for remedy in ({"include_top": False}, {"head": "new", "classes": 3}):
        assert source.infer_config(remedy)["pooling"] == "token"
