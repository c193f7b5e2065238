import numpy as np
import pytest

from keras_vit.export.stored_weights import restored, stored
from tests.cases import random_array

pytestmark = pytest.mark.any_backend


def test_int8_is_whole_steps_of_each_output_channel():
    weight = random_array(3, 3, 4, 5) * np.float32([1e-3, 1, 2, 50, 0])
    whole, step = stored(weight, "int8")
    assert whole.dtype == np.int8
    assert step.dtype == np.float32
    assert np.abs(whole).reshape(-1, 5).max(axis=0).tolist() == [127, 127, 127, 127, 0]
    for channel in range(5):
        values = weight[..., channel].astype("float64")
        size = np.abs(values).max() / 127 or 1.0
        expected = size * np.round(values / size)
        found = restored([whole.astype("float32"), step])[..., channel]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=0)
        assert np.abs(found - values).max() <= 0.51 * size


def test_bfloat16_has_eight_bits_of_a_number():
    weight = np.float32([[1, 1 + 2**-8, 1 + 3 * 2**-8, -3e38]])
    (half,) = stored(weight, "bfloat16")
    assert half.dtype.itemsize == 2
    assert half.astype("float32")[0, :3].tolist() == [1, 1, 1 + 2**-6]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_vectors_stay(dtype):
    weight = random_array(7)
    (same,) = stored(weight, dtype)
    np.testing.assert_array_equal(same, weight)
