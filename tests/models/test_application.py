"""Networks of `keras.applications` with the interface of `ViT`."""

import dataclasses
import sys

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.evaluation.features import feature_network
from keras_vit.export.features import network_outputs
from keras_vit.export.head import Head
from keras_vit.models.application import NETWORKS
from keras_vit.training import config as configs
from keras_vit.training.networks import network
from tests.cases import array, mostly_slow, perturb, random_array

SMALL = {"input_shape": (32, 48, 3), "classes": 5, "classifier_activation": None}


@pytest.fixture(scope="module")
def mobile():
    return perturb(keras_vit.KerasApplication("MobileNetV2", **SMALL))


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize(
    "name",
    # Each of them scales its pixels in another way.
    mostly_slow(
        ["MobileNetV2", "ResNet50", "DenseNet121", "EfficientNetV2B0"], "ResNet50"
    ),
)
def test_features_equal_those_of_keras_applications(tmp_path, name):
    build = getattr(keras.applications, name)
    whole = build(include_top=False, weights=None, input_shape=(32, 48, 3))
    whole.save_weights(tmp_path / "backbone.weights.h5")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 48, 3)).astype("float32")
    preprocess = sys.modules[build.__module__].preprocess_input
    expected = array(whole(preprocess(pixels.copy(), data_format="channels_last")))
    model = keras_vit.KerasApplication(
        name,
        (32, 48, 3),
        include_top=False,
        weights=tmp_path / "backbone.weights.h5",
    )
    assert model.preprocessor.image_size == (32, 48)
    found = array(model(model.preprocessor(pixels)))
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected.mean(axis=(1, 2)), atol=1e-5 * scale)


@pytest.mark.slow_elsewhere
def test_files_restore_the_model(mobile, tmp_path):
    mobile.save(tmp_path / "model.keras")
    again = keras_vit.load_checkpoint(tmp_path / "model.keras")
    images = random_array(2, 32, 48, 3)
    np.testing.assert_array_equal(array(again(images)), array(mobile(images)))
    assert again.get_config() == mobile.get_config()
    assert list(again.weights_by_path()) == list(mobile.weights_by_path())


@pytest.mark.slow_elsewhere
def test_another_size_and_another_head(mobile):
    larger = mobile.resized((64, 32, 3))
    assert larger.grid_shape == (2, 1)
    assert larger.preprocessor.image_size == (64, 32)
    gray = keras_vit.models.adapt.adapted(mobile, {"input_shape": (32, 48, 1)})
    images = random_array(1, 32, 48, 1)
    expected = array(mobile(np.repeat(images, 3, axis=-1)))
    np.testing.assert_allclose(array(gray(images)), expected, atol=1e-5)


@pytest.mark.slow_elsewhere
def test_features(mobile, tmp_path):
    found = network_outputs(mobile)(random_array(2, 32, 48, 3))
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "logits": (2, 5),
        "pooled": (2, 1280),
        "tokens": (2, 1, 2, 1280),
    }
    np.testing.assert_allclose(
        array(found["pooled"]), array(found["tokens"]).mean((1, 2)), atol=1e-5
    )
    mobile.save(tmp_path / "model.keras")
    saved = configs.Model(weights=str(tmp_path / "model.keras"))
    config = dataclasses.replace(configs.load("digits_vit"), model=saved)
    assert feature_network(config).output_shape == (None, 1280)
    maps = configs.override(config, ["model.arguments.pooling=None"])
    assert feature_network(maps).output_shape == (None, 1280)
    assert Head.of(mobile.get_config()).output == "logits"


@pytest.mark.any_backend
def test_a_network_of_three_channels():
    with pytest.raises(ValueError, match="scales the pixels of three channels itself"):
        keras_vit.KerasApplication("EfficientNetV2B0", (32, 32, 1))


@pytest.mark.any_backend
def test_a_config_chooses_the_network():
    config = configs.load("digits_vit")
    with pytest.raises(ValueError, match=r"'ResNet5'.*ViTS16.*ResNet50"):
        network(configs.override(config, ["model.architecture=ResNet5"]))
    with pytest.raises(ValueError, match=r"network.*'ResNet5'"):
        keras_vit.KerasApplication("ResNet5")
    with pytest.raises(ValueError, match="classes"):
        keras_vit.KerasApplication("ResNet50", classes=0)


@pytest.mark.slow
@pytest.mark.any_backend
@pytest.mark.parametrize("name", NETWORKS)
def test_every_weight_has_a_path_of_its_own(name):
    paths = []
    for _ in range(2):
        model = keras_vit.KerasApplication(name, (32, 32, 3), include_top=False)
        paths.append(list(model.weights_by_path()))
        assert len(set(paths[-1])) == len(model.weights)
    assert paths[0] == paths[1]
