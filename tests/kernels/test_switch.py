"""Agreement of whole models with and without fast kernels."""

import runpy

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.kernels import attention, switch
from tests.cases import array, perturb, random_images, tiny_t2t, tiny_vit


@pytest.fixture
def _fast_afterwards():
    yield
    keras_vit.kernels.use("fast")


MODELS = {
    "vit": lambda: tiny_vit(pooling="gap", activation="gelu"),
    "vit with remat, by blocks": lambda: tiny_vit(input_shape=(40, 40, 3), remat=True),
    "t2t": lambda: tiny_t2t(tokens="transformer"),
}


def training_step(make, weights, kind):
    keras_vit.kernels.use(kind)
    model = make()
    model.set_weights(weights)
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    images = random_images(model)
    outputs = array(model(images))
    model.train_on_batch(images, np.array([0, 1]))
    return outputs, {path: array(w) for path, w in model.weights_by_path().items()}


@pytest.mark.slow_elsewhere
@pytest.mark.usefixtures("_fast_afterwards")
@pytest.mark.parametrize(
    "name",
    [
        "vit",
        pytest.param("vit with remat, by blocks", marks=pytest.mark.slow),
        pytest.param("t2t", marks=pytest.mark.slow),
    ],
)
def test_models_agree(name, monkeypatch):
    monkeypatch.setattr(attention, "BLOCKS_FROM", 16)
    monkeypatch.setattr(attention, "BLOCK", 8)
    start = perturb(MODELS[name]()).get_weights()
    outputs, weights = training_step(MODELS[name], start, "fast")
    plain_outputs, plain_weights = training_step(MODELS[name], start, "plain")
    np.testing.assert_allclose(outputs, plain_outputs, atol=1e-6)
    for path, values in weights.items():
        np.testing.assert_allclose(values, plain_weights[path], atol=1e-5, err_msg=path)


@pytest.mark.usefixtures("_fast_afterwards")
def test_plain_runs_no_kernel():
    def kernel(x):
        raise AssertionError("the kernel ran")

    @switch.fast_form(kernel)
    def double(x):
        return 2 * x

    with pytest.raises(AssertionError, match="the kernel ran"):
        double(1)
    keras_vit.kernels.use("plain")
    assert double(1) == 2


@pytest.mark.any_backend
def test_the_environment_sets_the_default(monkeypatch):
    monkeypatch.setenv("KERAS_VIT_KERNELS", "plain")
    assert runpy.run_path(switch.__file__)["in_use"]() == "plain"
    monkeypatch.setenv("KERAS_VIT_KERNELS", "slow")
    with pytest.raises(ValueError, match=r"KERAS_VIT_KERNELS 'slow'.*'fast', 'plain'"):
        runpy.run_path(switch.__file__)


@pytest.mark.any_backend
def test_unknown_kernels():
    with pytest.raises(ValueError, match=r"Unknown kernels 'slow'.*'fast', 'plain'"):
        keras_vit.kernels.use("slow")
