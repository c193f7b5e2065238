import keras
import numpy as np
import pytest

from keras_vit.layers import Preprocessor
from tests.cases import array

MEAN, STD = [123.7, 116.3, 103.5], [58.4, 57.1, 57.4]


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64"])
@pytest.mark.parametrize("shape", [(4, 5, 3), (2, 4, 5, 3)])
def test_formula(dtype, shape):
    images = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    scaled = Preprocessor()(images)
    assert keras.backend.standardize_dtype(scaled.dtype) == "float32"
    np.testing.assert_allclose(array(scaled), (images - 127.5) / 127.5, atol=1e-6)
    scaled = array(Preprocessor(MEAN, STD)(images))
    np.testing.assert_allclose(scaled, (images - np.array(MEAN)) / STD, atol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_same_pixels_inside_tf_data_and_under_every_policy(tensorflow, policy):
    images = np.random.default_rng(0).integers(0, 256, (4, 4, 5, 3)).astype("uint8")
    keras.config.set_dtype_policy(policy)
    try:
        preprocessor = Preprocessor(MEAN, STD)
        data = tensorflow.data.Dataset.from_tensor_slices(images).map(preprocessor)
        piped = np.stack([image.numpy() for image in data])
        called = array(preprocessor(images))
    finally:
        keras.config.set_dtype_policy("float32")
    assert piped.dtype == called.dtype == "float32"
    np.testing.assert_allclose(piped, called, atol=1e-6)


def test_survives_its_config():
    preprocessor = Preprocessor(MEAN, 50.0)
    config = keras.saving.serialize_keras_object(preprocessor)
    revived = keras.saving.deserialize_keras_object(config)
    assert revived.get_config() == preprocessor.get_config()
    assert (revived.mean, revived.std) == (MEAN, 50.0)


def test_wrong_rank():
    with pytest.raises(ValueError, match=r"received \(4, 5\).*images\[\.\.\., None\]"):
        Preprocessor()(np.zeros((4, 5)))


@pytest.mark.parametrize("dtype", [bool, complex])
def test_wrong_dtype(dtype):
    with pytest.raises(ValueError, match=r"pixel values 0 to 255.*received dtype"):
        Preprocessor()(np.zeros((4, 5, 3), dtype))


def test_wrong_channels():
    with pytest.raises(ValueError, match=r"3 channels; received.*\(4, 5, 1\)"):
        Preprocessor(MEAN, STD)(np.zeros((4, 5, 1)))


@pytest.mark.parametrize("std", [0.0, -1.0, [1.0, 0.0, 1.0]])
def test_std_that_is_not_positive(std):
    with pytest.raises(ValueError, match="std must be positive"):
        Preprocessor(std=std)


def test_something_that_is_no_array():
    with pytest.raises(ValueError, match=r"Expected an array.*list"):
        Preprocessor()([[1.0]])
