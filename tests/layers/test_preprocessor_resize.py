"""Resizes and crops of the preprocessor, against formulas and other libraries."""

import math

import keras
import numpy as np
import pytest

from keras_vit.layers import Preprocessor
from tests.cases import array
from tests.layers.test_preprocessor import RESIZES, photograph


def resized_pixels(images, **arguments):
    return array(Preprocessor(0.0, 1.0, **arguments)(images))


def triangle(x):
    return max(0.0, 1.0 - abs(x))


def keys(x, a=-0.5):
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


KERNELS = {
    "bilinear": (triangle, False),
    "bilinear_antialias": (triangle, True),
    "bicubic_antialias": (keys, True),
}


def formula(image, size, resize):
    """Resize with half-pixel centers, one axis after the other.

    Samples outside the image are dropped, and the other weights sum to one.
    """
    kernel, antialias = KERNELS[resize]
    for axis, target in enumerate(size):
        source = image.shape[axis]
        scale = source / target
        width = max(scale, 1.0) if antialias else 1.0
        weights = [
            [kernel((i - (o + 0.5) * scale + 0.5) / width) for i in range(source)]
            for o in range(target)
        ]
        weights = np.array(weights) / np.sum(weights, axis=1, keepdims=True)
        image = np.moveaxis(np.tensordot(weights, image, (1, axis)), 0, axis)
    return np.clip(image, 0, 255)


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("source", [(1, 1), (7, 5), (60, 80), (2, 200), (150, 1)])
def test_resize_is_its_formula(source, resize):
    image = np.random.default_rng(0).integers(0, 256, (*source, 3)).astype("uint8")
    expected = formula(image, (24, 31), resize)
    resized = resized_pixels(image, image_size=(24, 31), resize=resize)
    np.testing.assert_allclose(resized, expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("resize", RESIZES)
def test_a_large_image(resize):
    # Each row of the image is constant, so the formula for one axis is enough.
    line = np.random.default_rng(0).integers(0, 256, 3000).astype("uint8")
    image = np.broadcast_to(line[:, None, None], (3000, 1000, 1))
    expected = formula(line[:, None, None], (32, 1), resize)
    resized = resized_pixels(image, image_size=(32, 24), resize=resize)
    expected = np.broadcast_to(expected, (32, 24, 1))
    np.testing.assert_allclose(resized, expected, rtol=0, atol=0.1)


def test_google_is_tensorflow(tensorflow):
    image = photograph(375, 500)
    expected = tensorflow.image.resize(image, (224, 192)).numpy()
    resized = resized_pixels(image, image_size=(224, 192))
    np.testing.assert_allclose(resized, expected, rtol=0, atol=0.01)


def pillow_resized(image, size, resize):
    pillow = pytest.importorskip("PIL.Image")
    method = {
        "bilinear_antialias": pillow.Resampling.BILINEAR,
        "bicubic_antialias": pillow.Resampling.BICUBIC,
    }[resize]
    return np.asarray(pillow.fromarray(image).resize(size[::-1], method), "float32")


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("resize", ["bilinear_antialias", "bicubic_antialias"])
@pytest.mark.parametrize("source", [(375, 500), (500, 333), (97, 61), (1, 1)])
def test_antialiased_is_pillow(source, resize):
    image = photograph(*source)
    expected = pillow_resized(image, (224, 192), resize)
    resized = resized_pixels(image, image_size=(224, 192), resize=resize)
    # Pillow rounds to integers after each axis.
    np.testing.assert_allclose(resized, expected, rtol=0, atol=1.25)
    assert np.abs(resized - expected).mean() < 0.4


def test_bicubic_stays_among_pixel_values():
    image = np.zeros((8, 8, 1), "uint8")
    image[:, 4:] = 255
    resized = resized_pixels(image, image_size=(8, 21), resize="bicubic_antialias")
    assert (resized.min(), resized.max()) == (0.0, 255.0)
    expected = pillow_resized(image[..., 0], (8, 21), "bicubic_antialias")
    np.testing.assert_allclose(resized[..., 0], expected, rtol=0, atol=0.51)


@pytest.mark.any_backend
@pytest.mark.parametrize("size", [(224, 192), (51, 67)])
def test_hard_edges_differ_from_pillow(size):
    """Check the bounds of what Pillow's clipping after the first axis changes."""
    blocks = np.random.default_rng(0).integers(0, 2, (30, 40, 1), "uint8") * 255
    image = np.repeat(blocks.repeat(4, 0).repeat(4, 1), 3, -1)
    for resize, most, average in (
        ("bilinear_antialias", 1.0, 0.4),
        ("bicubic_antialias", 20.0, 1.0),
    ):
        expected = pillow_resized(image, size, resize)
        resized = resized_pixels(image, image_size=size, resize=resize)
        assert np.abs(resized - expected).max() <= most
        assert np.abs(resized - expected).mean() < average


def published_window(source, image_size, crop_fraction):
    """Return the resized size and the corner of the crop in timm and torchvision."""
    height, width = source
    covered = [math.floor(side / crop_fraction) for side in image_size]
    if covered[0] == covered[1]:  # torchvision.transforms.Resize(covered[0])
        short, long = min(source), max(source)
        long = int(covered[0] * long / short)
        size = (covered[0], long) if height <= width else (long, covered[0])
    else:  # timm.data.transforms.ResizeKeepRatio(covered)
        ratio = min(height / covered[0], width / covered[1])
        size = (round(height / ratio), round(width / ratio))
    # torchvision.transforms.CenterCrop(image_size)
    corner = [round((s - c) / 2.0) for s, c in zip(size, image_size, strict=True)]
    return size, corner


WINDOWS = [
    ((375, 500), (32, 32), 0.875),
    ((500, 375), (32, 32), 0.9),
    ((24, 24), (24, 24), 0.875),
    ((3, 200), (24, 24), 0.9),
    ((200, 3), (24, 24), 0.9),
    ((375, 500), (24, 40), 0.875),
    ((301, 200), (24, 40), 0.9),
    ((48, 101), (24, 40), 1.0),
    ((206, 80), (24, 40), 0.95),
    ((1, 1), (24, 40), 0.9),
]


@pytest.mark.any_backend
@pytest.mark.parametrize(("source", "image_size", "crop_fraction"), WINDOWS)
def test_crop_is_the_published_window(source, image_size, crop_fraction):
    image = photograph(*source)
    size, (top, left) = published_window(source, image_size, crop_fraction)
    height, width = image_size
    whole = formula(image, size, "bicubic_antialias")
    resized = resized_pixels(
        image,
        image_size=image_size,
        resize="bicubic_antialias",
        crop_fraction=crop_fraction,
    )
    expected = whole[top : top + height, left : left + width]
    np.testing.assert_allclose(resized, expected, rtol=0, atol=0.02)


# The size of an image, that of the output, and the part that is resized.
FIRST_CROPS = [
    ((30, 61), (24, 24), np.s_[:, 15:45]),
    ((61, 30), (24, 24), np.s_[15:45]),
    ((37, 50), (24, 31), np.s_[:, 1:48]),
    ((50, 31), (24, 31), np.s_[13:37]),
    ((41, 41), (24, 31), np.s_[5:36]),
    ((7, 12), (24, 31), np.s_[:, 1:10]),
    ((24, 31), (24, 31), np.s_[:]),
    ((1, 200), (24, 31), np.s_[:, 99:100]),
    ((200, 1), (24, 31), np.s_[99:100]),
]


@pytest.mark.any_backend
@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize(("source", "image_size", "part"), FIRST_CROPS)
def test_crop_to_aspect_ratio(source, image_size, part, resize):
    image = photograph(*source).astype("float32")
    arguments = {"image_size": image_size, "resize": resize}
    resized = resized_pixels(image, crop_to_aspect_ratio=True, **arguments)
    expected = formula(image[part], image_size, resize)
    np.testing.assert_allclose(resized, expected, rtol=0, atol=0.02)
    interpolation, *antialias = resize.split("_")
    layer = keras.layers.Resizing(
        *image_size, interpolation, crop_to_aspect_ratio=True, antialias=bool(antialias)
    )
    np.testing.assert_allclose(resized, array(layer(image)), rtol=0, atol=1e-3)
