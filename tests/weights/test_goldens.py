"""Every source gives the outputs of the implementation that defines its format."""

import keras
import numpy as np
import pytest

import keras_vit
from tests.cases import array
from tests.golden import NAMES, Golden

TIMM = [name for name in NAMES if name.startswith("timm_")]


def test_all_sources_are_here():
    assert {name.partition("_")[0] for name in NAMES} == {"google", "hf", "timm"}
    assert len(NAMES) == 10


@pytest.mark.parametrize("name", NAMES)
def test_logits(name):
    golden = Golden(name)
    model = golden.load()
    assert model.count_params() == golden.parameters
    logits = model.predict(golden.inputs, verbose=0)
    np.testing.assert_allclose(logits, golden.outputs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_a_given_model(name):
    golden = Golden(name)
    config = golden.load().get_config()
    config["preprocessor"] = None
    if config["stem"] is not None:
        config["stem"] = keras.saving.deserialize_keras_object(config["stem"])
    model = keras_vit.ViT(**config, weights=golden.path)
    logits = model.predict(golden.inputs, verbose=0)
    np.testing.assert_allclose(logits, golden.outputs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", TIMM)
def test_features(name):
    golden = Golden(name)
    # timm's features come after its last norm, which with fc_norm has no place there.
    model = golden.load()
    last = "norm"
    if model.get_config()["final_norm"] == "after_pooling":
        last = f"block_{model.get_config()['num_layers'] - 1}"
    features = keras.Model(model.input, model.get_layer(last).output)
    np.testing.assert_allclose(
        array(features(golden.inputs)), golden.features, rtol=0, atol=1e-4
    )
