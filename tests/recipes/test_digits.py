import numpy as np
import pytest

from keras_vit.layers import Preprocessor

pytest.importorskip("sklearn", reason="recipes need scikit-learn")
pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]


def test_load():
    from recipes import digits

    small, large = digits.load(8), digits.load(16)
    assert {k: len(v[1]) for k, v in small.items()} == {
        "train": 1257,
        "validation": 180,
        "test": 360,
    }
    for part in small:
        assert small[part][0].shape[1:] == (8, 8, 1)
        assert large[part][0].shape[1:] == (16, 16, 1)
        np.testing.assert_array_equal(small[part][1], large[part][1])
        for images, labels in (small[part], large[part]):
            assert images.dtype == "float32"
            assert images.min() == 0
            assert 250 < images.max() <= 255
            assert set(labels) == set(range(10))


def test_no_image_is_in_two_parts():
    from recipes import digits

    parts = [{i.tobytes() for i in images} for images, _ in digits.load(8).values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1797


def test_evaluation_sees_every_image_once():
    from recipes import digits

    images, labels = digits.load(8)["test"]
    batches = list(digits.dataset(images, labels, Preprocessor(), 32))
    seen = np.concatenate([x.numpy() for x, _ in batches])
    np.testing.assert_allclose(seen, (images - 127.5) / 127.5, atol=1e-6)
    np.testing.assert_array_equal(np.concatenate([y.numpy() for _, y in batches]), labels)


def test_training_shifts_by_whole_pixels_and_repeats_for_a_seed():
    from recipes import digits

    images, labels = digits.load(16)["train"]

    def epochs(seed):
        data = digits.dataset(images, labels, Preprocessor(0.0, 1.0), 32, seed)
        return [np.concatenate([x.numpy() for x, _ in data]) for _ in range(2)]

    first, second = epochs(0)
    assert first.shape == (1248, 16, 16, 1)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(epochs(0), [first, second])
    assert not np.array_equal(epochs(1)[0], first)
    assert set(np.unique(first)) <= {0.0, *np.unique(images)}
