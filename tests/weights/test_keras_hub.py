"""Presets that KerasHub writes, compared with KerasHub's own outputs."""

import numpy as np
import pytest

import keras_vit
from tests.cases import array, perturb

keras_hub = pytest.importorskip("keras_hub", reason="KerasHub's presets are NOT TESTED")

pytestmark = pytest.mark.any_backend

SIZES = {"num_layers": 2, "num_heads": 3, "hidden_dim": 24, "intermediate_dim": 40}
DINOV2 = {**SIZES, "patch_size": 14, "image_shape": (28, 28, 3)}
DINOV3 = {**SIZES, "patch_size": 8, "image_shape": (16, 24, 3)}
BIASES = ("query", "key", "value", "proj", "mlp")


def images(*shape):
    return np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")


def test_deit(tmp_path):
    backbone = keras_hub.models.DeiTBackbone(
        image_shape=(32, 48, 3), patch_size=16, **SIZES
    )
    network = keras_hub.models.DeiTImageClassifier(backbone=backbone, num_classes=4)
    perturb(network)
    network.save_to_preset(tmp_path)
    model = keras_vit.load_checkpoint(tmp_path)
    inputs = images(32, 48, 3)
    np.testing.assert_allclose(array(model(inputs)), array(network(inputs)), atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"position_embedding_shape": (28, 28, 3)},
        {"position_embedding_shape": (28, 28, 3), "num_register_tokens": 2},
        {"position_embedding_shape": (28, 28, 3), "use_mask_token": False},
        {"position_embedding_shape": (28, 28, 3), "use_swiglu_ffn": True},
    ],
)
def test_dinov2(tmp_path, settings):
    network = keras_hub.models.DINOV2Backbone(**DINOV2, **settings)
    perturb(network)
    # A preset holds the positions at the size of their training.
    embeddings = network.embeddings
    positions = embeddings.position_embeddings
    embeddings.interpolated_position_embeddings.assign(positions)
    network.save_to_preset(tmp_path)
    model = keras_vit.load_checkpoint(tmp_path, pooling=None)
    inputs = images(28, 28, 3)
    expected = array(network({"images": inputs}))
    np.testing.assert_allclose(array(model(inputs)), expected, atol=1e-4)


def test_positions_of_dinov2_are_resized(tmp_path):
    network = keras_hub.models.DINOV2Backbone(
        **DINOV2, position_embedding_shape=(56, 56, 3), antialias_in_interpolation=True
    )
    network.save_to_preset(tmp_path)
    model = keras_vit.load_checkpoint(tmp_path)
    assert model.grid_shape == (2, 2)
    positions = array(network.embeddings.position_embeddings)
    expected = keras_vit.layers.resize_grid(
        positions[0, 1:].reshape(4, 4, -1), (2, 2), "bicubic_antialias"
    )
    loaded = array(model.get_layer("patch_encoder").positions.embedding)
    np.testing.assert_allclose(loaded[0, 1:], expected.reshape(4, -1), atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_key_bias": False},
        {
            "use_gated_mlp": True,
            "hidden_activation": "silu",
            **dict.fromkeys([f"use_{part}_bias" for part in BIASES], False),
            "use_mask_token": False,
            "rope_theta": 50.0,
        },
    ],
)
def test_dinov3(tmp_path, settings):
    network = keras_hub.models.DINOV3Backbone(**DINOV3, **settings)
    perturb(network)
    network.save_to_preset(tmp_path)
    model = keras_vit.load_checkpoint(tmp_path, pooling=None)
    inputs = images(16, 24, 3)
    expected = array(network({"pixel_values": inputs}))
    np.testing.assert_allclose(array(model(inputs)), expected, atol=1e-4)


def test_a_dinov3_without_one_bias_is_refused(tmp_path):
    network = keras_hub.models.DINOV3Backbone(**DINOV3, use_query_bias=False)
    network.save_to_preset(tmp_path)
    with pytest.raises(ValueError, match="biases of query, key and value"):
        keras_vit.load_checkpoint(tmp_path)
