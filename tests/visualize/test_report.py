import base64
import importlib
import io
import re

import numpy as np
import pytest

from keras_vit.visualize import (
    feature_channels,
    overlay,
    patch_colors,
    report,
)
from keras_vit.visualize.pictures import chart, colored, png, sheet
from tests.cases import perturb, random_images, tiny_t2t, tiny_vit

pytestmark = pytest.mark.any_backend
pytest.importorskip("matplotlib", reason="pictures need matplotlib")
Image = pytest.importorskip("PIL.Image", reason="pictures need Pillow")


def test_an_overlay_colors_the_patches_with_large_values():
    pixels = np.full((16, 24, 3), 200.0)
    map_ = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 5.0]])
    shown = overlay(pixels, map_)
    assert shown.shape == (16, 24, 3)
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown[:6, :10], 200)
    assert np.abs(shown[15, 23].astype(int) - 200).max() > 20
    grey = overlay(pixels[..., :1], map_)
    np.testing.assert_array_equal(grey, shown)
    np.testing.assert_array_equal(overlay(pixels, np.ones((2, 3))), 200)
    five = np.concatenate([pixels, 0 * pixels[..., :2]], axis=-1)
    np.testing.assert_array_equal(overlay(five, map_), shown)
    with pytest.raises(ValueError, match=r"shapes \(16, 24\) and \(2, 3\)"):
        overlay(pixels[..., 0], map_)


def test_a_sheet_has_transparent_gaps():
    rows = np.arange(2 * 3 * 4 * 5 * 3).reshape(2, 3, 4, 5, 3).astype("uint8")
    whole = sheet(rows, gap=2)
    assert whole.shape == (2 * 4 + 2, 3 * 5 + 4, 4)
    np.testing.assert_array_equal(whole[6:, 7:12, :3], rows[1, 1])
    assert whole[4:6, :, 3].max() == 0
    decoded = np.asarray(Image.open(io.BytesIO(png(whole, scale=2))))
    np.testing.assert_array_equal(decoded[::2, ::2], whole)


def test_maps_and_charts():
    assert colored(np.ones((2, 3))).shape == (2, 3, 3)
    svg = chart({"heads": (np.arange(3), np.arange(3) + 1.0)}, "block", "distance")
    assert svg.startswith("<svg")
    assert "currentColor" in svg
    assert "#010203" not in svg


def test_colors_show_principal_components_of_all_images():
    model = perturb(tiny_vit(registers=1))
    images = random_images(model, batch=3)
    colors = patch_colors(model, images, block=0)
    assert colors.shape == (3, 2, 3, 3)
    assert colors.min() == 0
    assert colors.max() == 1
    # Components are uncorrelated over the patches of all images, except for clipping.
    correlation = np.corrcoef(colors.reshape(-1, 3).T)
    assert np.abs(correlation - np.eye(3)).max() < 0.3
    np.testing.assert_allclose(
        patch_colors(model, images, block=0, batch_size=2), colors, atol=1e-4
    )


def test_channels_with_the_largest_variance():
    model = perturb(tiny_t2t())
    maps = feature_channels(model, random_images(model), block=1, channels=3)
    assert maps.shape == (2, 3, 2, 3)
    np.testing.assert_array_equal(maps.min(axis=(2, 3)), 0)
    np.testing.assert_array_equal(maps.max(axis=(2, 3)), 1)
    with pytest.raises(ValueError, match="channels must be 1 or more; received 0"):
        feature_channels(model, random_images(model), channels=0)


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (tiny_vit, {"input_shape": (16, 24, 1), "pooling": "map"}),
        pytest.param(tiny_vit, {"classifier_activation": None}, marks=pytest.mark.slow),
        (tiny_vit, {"include_top": False, "positions": "none", "pooling": "gap"}),
        (tiny_vit, {"input_shape": (16, 24, 5), "num_layers": 1}),
        (tiny_t2t, {"tokens": "transformer"}),
        pytest.param(tiny_t2t, {}, marks=pytest.mark.slow),
    ],
    ids=["grey", "logits", "headless", "five_channels", "t2t_transformer", "t2t"],
)
def test_the_page_contains_everything(make, arguments, tmp_path):
    model = perturb(make(**arguments))
    generator = np.random.default_rng(0)
    channels = model.input_shape[-1]
    photos = [generator.integers(0, 256, (h, 40, channels)) for h in (30, 50)]
    path = report(model, photos, tmp_path / "new" / "page.html", ["a & b", "<c>"])
    page = path.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)  # Opens without a network.
    assert "a &amp; b" in page
    assert "<c>" not in page
    pictures = re.findall(
        r'<img [^>]*src="data:image/png;base64,([^"]+)" alt="([^"]*)"', page
    )
    assert len(pictures) == page.count("<img")
    for content, alternative in pictures:
        assert Image.open(io.BytesIO(base64.b64decode(content))).size > (1, 1)
        assert alternative
    assert ("Relevance:" in page) == ("include_top" not in arguments)
    assert ("Positions" in page) == ("positions" not in arguments)
    assert ("Filters" in page) == (make is tiny_vit)
    assert page.count("second split of") == (2 if "tokens" in arguments else 0)
    performer = make is tiny_t2t and "tokens" not in arguments
    assert ("No maps. Performers approximate" in page) == performer


def test_bad_images(tmp_path):
    model = tiny_vit()
    with pytest.raises(ValueError, match="one image or more; received none"):
        report(model, [], tmp_path / "page.html")
    with pytest.raises(ValueError, match="1 images have 2 image_names"):
        report(model, [np.zeros((16, 24, 3))], tmp_path / "page.html", ["a", "b"])
    for image, message in (
        (np.zeros((16, 24)), r"shape \(height, width, 3\).*received shape \(16, 24\)"),
        (np.zeros((0, 24, 3)), r"received shape \(0, 24, 3\)"),
        (np.full((16, 24, 3), np.nan), "not finite"),
        ("photo.jpg", "received the path 'photo.jpg'.*keras-vit report"),
    ):
        with pytest.raises(ValueError, match=message):
            report(model, [image], tmp_path / "page.html")
    with pytest.raises(IsADirectoryError, match="pass the path of a file in it"):
        report(model, [np.zeros((16, 24, 3))], tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_weights_of_large_grids_are_computed_image_by_image(tmp_path, monkeypatch):
    model = perturb(tiny_vit(num_layers=1))
    photos = list(np.random.default_rng(0).integers(0, 256, (3, 16, 24, 3)))
    whole = report(model, photos, tmp_path / "whole.html").read_text()
    module = importlib.import_module("keras_vit.visualize.report")
    monkeypatch.setattr(module, "_MOST_WEIGHTS", 98)
    single = report(model, photos, tmp_path / "single.html").read_text()
    assert re.findall("The means of the blocks: [^.]*", single) == re.findall(
        "The means of the blocks: [^.]*", whole
    )
