import numpy as np
import pytest

from keras_vit.data.augment import (
    Augmentation,
    crop_window,
    erased,
    jittered,
    mix_images,
    shifted,
)

pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]


def test_crop_windows_have_the_area_and_aspect():
    windows = np.array(
        [
            crop_window((375, 500, 3), (0.05, 1.0), (3 / 4, 4 / 3), (0, s))
            for s in range(200)
        ]
    )
    top, left, height, width = windows.T
    area = height * width / (375 * 500)
    aspect = width / height
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 375).all()
    assert (left + width <= 500).all()
    assert area.min() > 0.045
    assert area.min() < 0.15
    assert area.max() > 0.8
    assert aspect.min() > 0.74
    assert aspect.max() < 1.35
    assert len(set(top)) > 50


def test_a_window_that_cannot_be_is_the_whole_image():
    window = crop_window((4, 400, 3), (0.9, 1.0), (1.0, 1.0), (0, 0))
    np.testing.assert_array_equal(window, (0, 0, 4, 400))


def test_shifts_are_all_of_the_crops_of_the_padded_image():
    image = np.arange(1, 17, dtype="float32").reshape(4, 4, 1)
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    crops = {padded[y : y + 4, x : x + 4].tobytes() for y in range(3) for x in range(3)}
    seen = {shifted(image, 1, (0, seed)).numpy().tobytes() for seed in range(100)}
    assert seen == crops


def test_jitter_is_within_its_range():
    grey = np.full((2, 2, 3), 100, "uint8")
    values = [int(jittered(grey, 0.4, (0, s)).numpy()[0, 0, 0]) for s in range(100)]
    # Gray has no contrast and no color, so only the brightness changes.
    assert 60 <= min(values) < 70
    assert 130 < max(values) <= 140
    np.testing.assert_array_equal(jittered(grey, 0.0, (0, 0)), grey)


def test_jitter_of_one_channel_is_that_of_three_equal_ones():
    image = np.arange(0, 250, 10, dtype="uint8").reshape(5, 5, 1)
    three = jittered(np.repeat(image, 3, axis=-1), 0.8, (0, 1))
    found = jittered(image, 0.8, (0, 1))
    assert found.shape == image.shape
    np.testing.assert_array_equal(np.repeat(found, 3, axis=-1), three)


def test_erased_rectangles():
    image = np.full((20, 30, 3), 1000.0, "float32")
    noise = []
    for seed in range(200):
        result = erased(image, 1.0, (0, seed)).numpy()
        changed = result != 1000.0
        rows, columns = np.nonzero(changed.any(-1))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert changed.sum() == height * width * 3
        assert 0.01 < height * width / 600 < 0.4
        # Sides are rounded to whole pixels, for example 2 by 7 for a ratio of 0.3.
        assert 0.2 < height / width < 4
        noise.append(result[changed])
    noise = np.concatenate(noise)
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02


def test_erasing_has_its_probability():
    import tensorflow as tf

    image = tf.ones((8, 8, 3))

    @tf.function
    def erased_images(probability):
        seeds = tf.stack([tf.zeros(300, "int32"), tf.range(300)], 1)
        return tf.map_fn(
            lambda seed: erased(image, probability, seed),
            seeds,
            fn_output_signature=float,
        )

    def changed(probability):
        images = erased_images(probability).numpy()
        return np.mean((images != 1).any((1, 2, 3)))

    assert 0.18 < changed(0.25) < 0.32
    assert changed(0.0) == 0


@pytest.fixture
def batch():
    generator = np.random.default_rng(0)
    images = generator.normal(size=(5, 12, 16, 3)).astype("float32")
    return images, np.eye(5, dtype="float32")


def test_mixup(batch):
    images, labels = batch
    ratios = []
    for seed in range(100):
        x, y = (
            t.numpy()
            for t in mix_images(images, labels, Augmentation(mixup=0.2), (0, seed))
        )
        ratio = y[0, 0]
        expected = ratio * images + (1 - ratio) * np.roll(images, 1, 0)
        np.testing.assert_allclose(x, expected, atol=1e-6)
        expected = ratio * labels + (1 - ratio) * np.roll(labels, 1, 0)
        np.testing.assert_allclose(y, expected, atol=1e-6)
        ratios.append(ratio)
    # Beta(0.2, 0.2) has the mean 1/2 and the variance 1 / (4 (2 * 0.2 + 1)).
    assert abs(np.mean(ratios) - 0.5) < 0.12
    assert abs(np.var(ratios) - 1 / 5.6) < 0.04


def test_cutmix(batch):
    images, labels = batch
    ratios = []
    for seed in range(100):
        augmentation = Augmentation(cutmix=1.0)
        x, y = (t.numpy() for t in mix_images(images, labels, augmentation, (0, seed)))
        own = (x == images).all((0, 3))
        other = (x == np.roll(images, 1, 0)).all((0, 3))
        assert (own ^ other).all()
        if other.any():
            rows, columns = np.nonzero(other)
            assert other.sum() == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        ratio = own.mean()
        expected = ratio * labels + (1 - ratio) * np.roll(labels, 1, 0)
        np.testing.assert_allclose(y, expected, atol=1e-6)
        ratios.append(ratio)
    # The boxes of timm have a random center and are clipped to the image.
    generator = np.random.default_rng(0)
    cut = np.sqrt(1 - generator.uniform(size=(10000, 1))) * (12, 16)
    cut, centre = cut.astype(int), generator.integers(0, (12, 16), (10000, 2))
    start = np.maximum(centre - cut // 2, 0)
    end = np.minimum(centre - cut // 2 + cut, (12, 16))
    expected = 1 - np.prod(end - start, axis=1) / 192
    assert abs(np.mean(ratios) - expected.mean()) < 0.07
    assert abs(np.std(ratios) - expected.std()) < 0.05


def test_mixup_and_cutmix_take_turns(batch):
    images, labels = batch
    augmentation = Augmentation(
        mixup=0.8, cutmix=1.0, mix_probability=0.6, switch_probability=0.25
    )
    kinds = []
    for seed in range(300):
        x = mix_images(images, labels, augmentation, (0, seed))[0].numpy()
        if (x == images).all():
            kinds.append("none")
        else:
            pasted = (x == images) | (x == np.roll(images, 1, 0))
            kinds.append("cutmix" if pasted.all() else "mixup")
    # An empty box counts as `none`.
    assert abs(kinds.count("none") / 300 - 0.4) < 0.12
    assert abs(kinds.count("mixup") / 300 - 0.45) < 0.1
    assert 0.07 < kinds.count("cutmix") / 300 < 0.23


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crop_area", (0.5, 0.2)),
        ("crop_area", (0.0, 1.0)),
        ("crop_area", 0.5),
        ("crop_aspect", (0.0, 1.0)),
        ("pad_and_crop", -1),
        ("color_jitter", 1.5),
        ("random_erasing", -0.1),
        ("mixup", -1.0),
        ("cutmix", float("nan")),
        ("mix_probability", 2.0),
        ("switch_probability", -1.0),
        ("randaugment", "much"),
    ],
)
def test_values_out_of_range(name, value):
    with pytest.raises(ValueError, match=r"must be|RandAugment"):
        Augmentation(**{name: value})
