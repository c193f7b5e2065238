"""3-Augment and the simple random crop, compared with Pillow."""

import dataclasses

import numpy as np
import pytest

from keras_vit.data.augment import Augmentation, simply_cropped
from keras_vit.data.pipeline import training_batches
from keras_vit.data.sources import open_source
from keras_vit.data.three_augment import gaussian_blur, three_augmented
from keras_vit.layers import Preprocessor
from tests.data.streams import PIXELS

Image = pytest.importorskip("PIL.Image", reason="draws the expected images")
ImageFilter = pytest.importorskip("PIL.ImageFilter")
ImageOps = pytest.importorskip("PIL.ImageOps")
pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]

PHOTO = np.random.default_rng(0).integers(0, 256, (23, 31, 3)).astype("uint8")


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0, 1.41421, 1.7, 2.0])
def test_the_blur_is_that_of_pillow(sigma):
    blurred = Image.fromarray(PHOTO).filter(ImageFilter.GaussianBlur(sigma))
    np.testing.assert_array_equal(gaussian_blur(PHOTO, sigma), np.asarray(blurred))


def test_each_image_is_gray_solarized_or_blurred():
    import tensorflow as tf

    photo = Image.fromarray(PHOTO)
    gray = np.asarray(photo.convert("L").convert("RGB"))
    solarized = np.asarray(ImageOps.solarize(photo))
    found = {"gray": 0, "solarized": 0, "blurred": 0}
    augmented = tf.function(three_augmented)
    deviations = []
    for seed in range(300):
        image = augmented(tf.constant(PHOTO), tf.constant([0, seed])).numpy()
        if np.array_equal(image, gray):
            found["gray"] += 1
        elif np.array_equal(image, solarized):
            found["solarized"] += 1
        else:
            found["blurred"] += 1
            assert abs(image.mean() - PHOTO.mean()) < 2
            deviations.append(image.std())
    assert min(found.values()) > 70, found
    # Some are hardly blurred, some with a standard deviation of two pixels.
    assert min(deviations) < 0.3 * PHOTO.std()
    assert max(deviations) > 0.9 * PHOTO.std()


@pytest.mark.parametrize(("shape", "size"), [((8, 8, 3), (8, 10)), ((8, 6, 3), (8, 10))])
def test_the_simple_crop(shape, size):
    preprocessor = Preprocessor(image_size=shape[:2], resize="bicubic_antialias")
    resized = Image.fromarray(PHOTO).resize(size[::-1], Image.Resampling.BICUBIC)
    padded = np.pad(np.asarray(resized), ((4, 4), (4, 4), (0, 0)), "reflect")
    height, width, _ = shape
    windows = {
        (row, column): padded[row : row + height, column : column + width]
        for row in range(padded.shape[0] - height + 1)
        for column in range(padded.shape[1] - width + 1)
    }
    seen = set()
    for seed in range(60):
        image = simply_cropped(PHOTO, preprocessor, shape, 4, (0, seed)).numpy()
        assert image.shape == shape
        # Pillow rounds after each axis.
        place = min(windows, key=lambda at: np.abs(windows[at] - image).mean())
        assert np.abs(windows[place] - image).mean() < 0.6
        seen.add(place)
    assert len(seen) > 20


def test_batches_of_deit_iii(folder):
    augmentation = Augmentation(
        simple_crop=2, horizontal_flip=True, three_augment=True, color_jitter=0.3
    )
    source = open_source(f"folder:{folder}")
    preprocessor = Preprocessor.imagenet((8, 12), 1.0)

    def batch(**changes):
        changed = dataclasses.replace(augmentation, **changes)
        images, _ = next(iter(training_batches(source, preprocessor, changed, 6, 0)))
        return np.asarray(images)

    images = batch()
    assert images.shape == (6, 8, 12, 3)
    assert np.isfinite(images).all()
    # The same crops and flips.
    plain, augmented = batch(three_augment=False, color_jitter=0), batch(color_jitter=0)
    assert (plain != augmented).any(axis=(1, 2, 3)).all()
    assert (images != augmented).any(axis=(1, 2, 3)).all()


def test_settings_that_exclude_each_other():
    for crop in ({"crop_area": (0.1, 1.0)}, {"pad_and_crop": 4}):
        with pytest.raises(ValueError, match="simple_crop=4 excludes the other random"):
            Augmentation(simple_crop=4, **crop)
    digits = open_source("digits")
    with pytest.raises(ValueError, match=r"three_augment .*need images with 3 channels"):
        training_batches(digits, PIXELS, Augmentation(three_augment=True), 2, 0)
