"""Compatibility with files that an earlier version wrote."""

import pathlib
import shutil

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.training import runs
from keras_vit.training.config import load
from tests.cases import (
    array,
    mostly_slow,
    mostly_slow_elsewhere,
)
from tests.earlier.write import MODELS, build
from tests.export.serving import exports_here

EARLIER = pathlib.Path(__file__).parent / "earlier"


def assert_same_output(model, name):
    stored = np.load(EARLIER / f"{name}.npz")
    output = array(model(model.preprocessor(stored["pixels"])))
    # The hybrid has a bfloat16 policy.
    tolerance = 2e-2 if name == "hybrid" else 1e-5
    np.testing.assert_allclose(output, stored["output"], rtol=0, atol=tolerance)


@pytest.mark.any_backend
@pytest.mark.parametrize("name", mostly_slow(MODELS, "vit"))
def test_a_saved_model_loads(name):
    model = keras.saving.load_model(EARLIER / f"{name}.keras")
    assert_same_output(model, name)
    config, new = model.get_config(), build(name).get_config()
    assert set(config) == set(new)
    # Automatic layer names contain a counter.
    named = {"name", "stem", "preprocessor"}
    assert all(config[key] == new[key] for key in set(config) - named)
    assert list(model.weights_by_path()) == list(build(name).weights_by_path())


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("name", mostly_slow_elsewhere(MODELS, "vit"))
def test_saved_weights_load(name):
    model = build(name)
    for weight in model.weights:
        weight.assign(np.zeros(weight.shape))
    model.load_weights(EARLIER / f"{name}.weights.h5")
    assert_same_output(model, name)


@pytest.mark.slow_elsewhere
def test_saved_layers_load():
    model = keras.saving.load_model(EARLIER / "layers.keras")
    stored = np.load(EARLIER / "layers.npz")
    output = array(model(stored["tokens"]))
    np.testing.assert_allclose(output, stored["output"], rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="runs of TensorFlow and JAX are stored"
)
def test_a_run_resumes(tmp_path):
    backend = keras.backend.backend()
    run = tmp_path / "run"
    shutil.copytree(EARLIER / f"run_{backend}", run)
    runs.train(load(str(run / "config.json")), run)
    ours = keras_vit.load_checkpoint(run / "last.keras").weights_by_path()
    theirs = keras_vit.load_checkpoint(EARLIER / f"last_{backend}.keras")
    for path, weight in theirs.weights_by_path().items():
        # Rounding varies slightly with the number of cores.
        np.testing.assert_allclose(
            array(ours[path]), array(weight), rtol=0, atol=1e-4, err_msg=path
        )


@pytest.mark.slow
@pytest.mark.any_backend
def test_an_export_agrees_with_a_new_one(tmp_path, tensorflow):
    model = keras.saving.load_model(EARLIER / "vit.keras")
    with exports_here():
        keras_vit.export.saved_model(model, tmp_path / "new")
    earlier = tensorflow.saved_model.load(str(EARLIER / "saved_model" / "1")).signatures
    new = tensorflow.saved_model.load(str(tmp_path / "new" / "1")).signatures
    assert set(earlier) == set(new)
    pixels = np.load(EARLIER / "vit.npz")["pixels"]
    for name in earlier:
        old, now = earlier[name], new[name]
        assert old.structured_input_signature == now.structured_input_signature
        assert set(old.structured_outputs) == set(now.structured_outputs)
    images = tensorflow.constant(pixels, "float32")
    outputs = new["serving_default"](images=images)
    for name, values in earlier["serving_default"](images=images).items():
        if values.dtype == tensorflow.string:
            np.testing.assert_array_equal(values, outputs[name])
        else:
            np.testing.assert_allclose(values, outputs[name], rtol=0, atol=1e-5)
