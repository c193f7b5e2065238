"""Preprocessed pixels of transformers' image processors, which use Pillow.

Pillow rounds and clips after each axis of a resize, and `Preprocessor` does not. The
photographs have no hard edges, so only the rounding is left: at most one gray level for a
bilinear resize, and 1.25 for a bicubic one, whose kernel has negative weights. A window
that is off by one pixel differs by more than 20.
"""

import json

import numpy as np
import pytest

from keras_vit.layers import Preprocessor
from keras_vit.weights.transformers.preprocessing import read_preprocessor_config
from recipes.benchmark import torchvision_stub
from tests.cases import array
from tests.layers.test_preprocessor import photograph

torchvision_stub.install()
torch = pytest.importorskip("torch", reason="transformers' processors are NOT TESTED")
transformers = pytest.importorskip("transformers", reason="processors are NOT TESTED")

pytestmark = pytest.mark.any_backend

SQUARE = {"size": {"height": 48, "width": 48}}
CROP = {
    "size": {"shortest_edge": 64},
    "crop_size": {"height": 48, "width": 48},
    "do_center_crop": True,
}
CENTRAL = {"size": {"shortest_edge": 48}, "crop_size": 48, "do_center_crop": True}
ODD = {"size": {"shortest_edge": 51}, "crop_size": 48, "do_center_crop": True}
PROCESSORS = [
    ("ViT", SQUARE),
    ("ViT", CROP),
    ("DeiT", CROP),
    ("Bit", CROP),
    ("Bit", ODD),
    ("CLIP", CENTRAL),
    ("Siglip", SQUARE),
    ("Beit", SQUARE),
]
# Resized to 64x67, 67x64, 64x86, 114x64 before the crop, which leaves 19, 22 or 66 rows
# or columns over: all remainders of a division by 4 except one.
SIZES = [(100, 105), (105, 100), (75, 101), (90, 50)]


def preprocessor(config):
    arguments, other, size = read_preprocessor_config(config, None)
    assert not other
    return Preprocessor(**{"image_size": size, **arguments})


@pytest.mark.parametrize(("name", "settings"), PROCESSORS)
def test_pixels_of_a_processor(tmp_path, name, settings):
    config = {"image_processor_type": f"{name}ImageProcessor", **settings}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    layer = preprocessor(config)
    for height, width in SIZES:
        image = photograph(height, width)
        pixels = processor(image, return_tensors="np", input_data_format="channels_last")
        expected = pixels["pixel_values"][0].transpose(1, 2, 0)
        levels = np.abs(array(layer(image)) - expected) * layer.std
        assert levels.max() < 1.25, (height, width)
        assert levels.mean() < 0.4


def test_pixels_of_dinov3():
    """Check the one processor that resizes floats, so that nothing is rounded."""
    config = {"image_processor_type": "DINOv3ViTImageProcessor", **SQUARE}
    layer = preprocessor(config)
    image = photograph(75, 101)
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(image.transpose(2, 0, 1)[None]) / 255,
        (48, 48),
        mode="bilinear",
        antialias=True,
    )
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (resized[0].numpy().transpose(1, 2, 0) - mean) / std
    np.testing.assert_allclose(array(layer(image)), expected, rtol=0, atol=1e-4)
