"""Outputs of loaded checkpoints, compared with those of the original implementations."""

import keras
import numpy as np
import pytest

import keras_vit
from tests.cases import (
    array,
    mostly_slow,
)
from tests.golden import NAMES, Golden

TIMM = [name for name in NAMES if name.startswith("timm_")]
HEADLESS = ("hf_vit_headless", "keras_hub_backbone")
WITH_HEAD = [name for name in NAMES if name not in HEADLESS]
ONE_PER_SOURCE = (
    "timm_deit3",  # LayerScale of both branches.
    "google_gap",
    "google_hybrid_stem_only",
    "hf_deit",
    "keras_hub_token",
    "t2t_performer",
    "timm_registers_layerscale",
)
# Difference between the numbers of entries in the model and in the file. The positions of
# registers are added to the registers, which removes entries. Biases that the file lacks
# are zeros, which adds entries (for the patches and, in two blocks, for the output of the
# attention and both layers of the MLP).
DIFFERENCE = {
    "timm_registers_positions": -2 * 32,
    "hf_deit": -32,
    "keras_hub_gap": 32 + 2 * (32 + 32 + 64),
}


def test_all_sources_are_here():
    assert {name.partition("_")[0] for name in NAMES} == {
        "google",
        "hf",
        "keras",
        "t2t",
        "timm",
    }
    assert len(NAMES) == 26


@pytest.mark.parametrize("name", mostly_slow(WITH_HEAD, *ONE_PER_SOURCE))
def test_logits(name):
    golden = Golden(name)
    model = golden.load()
    assert model.count_params() == golden.parameters + DIFFERENCE.get(name, 0)
    logits = model.predict(golden.inputs, verbose=0)
    np.testing.assert_allclose(logits, golden.outputs, rtol=0, atol=1e-4)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "name",
    mostly_slow(WITH_HEAD, "google_token", "timm_map", "hf_vit", "t2t_dense"),
)
def test_a_given_model_gets_the_same_weights(name):
    golden = Golden(name)
    loaded = golden.load()
    config = {**loaded.get_config(), "weights": golden.path}
    given = type(loaded).from_config(config)
    for (path, weight), other in zip(
        loaded.weights_by_path().items(), given.weights, strict=True
    ):
        np.testing.assert_array_equal(array(other), array(weight), err_msg=path)


@pytest.mark.any_backend
@pytest.mark.parametrize("name", mostly_slow(TIMM, "timm_map", "timm_token"))
def test_features(name):
    golden = Golden(name)
    model = golden.load()
    # timm takes the features after its last norm, which is an identity if there is an
    # fc_norm.
    last = "norm"
    if model.get_config()["final_norm"] == "after_pooling":
        last = f"block_{model.get_config()['num_layers'] - 1}"
    features = keras.Model(model.input, model.get_layer(last).output)
    np.testing.assert_allclose(
        features.predict(golden.inputs, verbose=0), golden.features, rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("name", HEADLESS)
def test_a_headless_file_gives_features(name):
    golden = Golden(name)
    model = keras_vit.load_checkpoint(golden.path, **golden.overrides, pooling=None)
    tokens = model.predict(golden.inputs, verbose=0)
    np.testing.assert_allclose(tokens, golden.outputs, rtol=0, atol=1e-4)
    pooled = keras_vit.load_checkpoint(golden.path, **golden.overrides)
    assert pooled.output_shape == (None, 32)
    with_head = keras_vit.load_checkpoint(
        golden.path, **golden.overrides, head="new", classes=3
    )
    assert with_head.output_shape == (None, 3)
