"""Global settings of Keras and JAX that once broke models or training."""

import contextlib
import functools

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.layers.attention import self_attention
from tests.cases import (
    array,
    output_and_gradients,
    perturb,
    random_array,
    random_images,
    tiny_bit,
    tiny_vit,
)

LABELS = np.array([0, 1])


@contextlib.contextmanager
def jax_x64():
    import jax

    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


@contextlib.contextmanager
def floatx(dtype):
    keras.config.set_floatx(dtype)
    try:
        yield
    finally:
        keras.config.set_floatx("float32")


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="a setting of JAX")
def test_attention_by_blocks_trains_with_jax_enable_x64(monkeypatch):
    monkeypatch.setattr("keras_vit.kernels.attention.BLOCKS_FROM", 8)
    monkeypatch.setattr("keras_vit.kernels.attention.BLOCK", 4)
    attend = functools.partial(self_attention, num_heads=2, scale=0.7)
    arrays, upstream = [random_array(2, 10, 12)], random_array(2, 10, 4, seed=1)
    plain = output_and_gradients(attend, arrays, upstream)
    with jax_x64():
        wide = output_and_gradients(attend, arrays, upstream)
    np.testing.assert_allclose(wide[0], plain[0], atol=1e-6)
    np.testing.assert_allclose(wide[1][0], plain[1][0], atol=1e-6)


@contextlib.contextmanager
def channels_first():
    keras.config.set_image_data_format("channels_first")
    try:
        yield
    finally:
        keras.config.set_image_data_format("channels_last")


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "make",
    [
        tiny_bit,
        functools.partial(
            keras_vit.KerasApplication, "MobileNetV2", (32, 48, 3), classes=5
        ),
    ],
)
def test_the_global_image_data_format_changes_no_convolutional_network(make):
    model = make()
    with channels_first():
        other = make()
    for weight, value in zip(other.weights, model.weights, strict=True):
        weight.assign(value)
    images = random_images(model)
    np.testing.assert_array_equal(array(other(images)), array(model(images)))


@pytest.mark.parametrize("positions", ["relative", "sincos_2d"])
def test_floatx_bfloat16_leaves_the_positions_as_they_are(positions):
    model = perturb(tiny_vit(positions=positions, dtype="float32"))
    images = keras.ops.convert_to_tensor(random_images(model), "float32")
    plain = keras.ops.convert_to_numpy(model(images))
    with floatx("bfloat16"):
        outputs = keras.ops.convert_to_numpy(model(images))
    np.testing.assert_allclose(outputs, plain, atol=1e-6)


def test_adaptive_optimizers_refuse_float16_weights():
    model = tiny_vit(num_layers=1, dtype="float16")
    model.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="mixed_float16"):
        model.fit(random_images(model), LABELS, verbose=0)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(random_images(model), LABELS, verbose=0)
