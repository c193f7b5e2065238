"""Distributions and seeds of initial values, which NumPy draws as Keras does."""

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.kernels.initial_values import InitialValues, checkpoint_follows
from keras_vit.weights.google import save_npz
from tests.cases import array, tiny_vit

CONV = (3, 3, 64, 128)
INITIALIZERS = {
    "normal": (keras.initializers.RandomNormal(0.5, 0.02, seed=1), (300, 200)),
    "cut off": (keras.initializers.TruncatedNormal(-1.0, 0.3, seed=1), (300, 200)),
    "glorot": (keras.initializers.GlorotUniform(seed=1), (300, 200)),
    "glorot, three axes": (keras.initializers.GlorotUniform(seed=1), (2, 100, 300)),
    "lecun": (keras.initializers.LecunNormal(seed=1), (300, 200)),
    "he, convolution": (keras.initializers.HeUniform(seed=1), CONV),
    "out": (keras.initializers.VarianceScaling(2.0, "fan_out", "uniform", seed=1), CONV),
    "vector": (keras.initializers.GlorotUniform(seed=1), (60000,)),
    "uncut": (
        keras.initializers.VarianceScaling(1.0, "fan_avg", "untruncated_normal", seed=1),
        CONV,
    ),
}


def values_of(initializer, shape, dtype="float32"):
    layer = InitialValues(dtype=dtype)
    return layer.add_weight(shape=shape, initializer=initializer)


@pytest.mark.parametrize("name", INITIALIZERS)
def test_distribution_is_that_of_keras(name):
    initializer, shape = INITIALIZERS[name]
    ours = array(values_of(initializer, shape)).ravel()
    theirs = array(initializer(shape)).ravel()
    deviation = float(theirs.std())
    # There are about 60,000 values, so that 5 % is several standard errors.
    assert ours.mean() == pytest.approx(theirs.mean(), abs=0.05 * deviation)
    quantiles = [0.0, 0.001, 0.05, 0.25, 0.5, 0.75, 0.95, 0.999, 1.0]
    distances = np.abs(np.quantile(ours, quantiles) - np.quantile(theirs, quantiles))
    normal = name in ("normal", "uncut")  # Its extremes vary.
    assert distances[1:-1].max() < 0.25 * deviation
    assert distances[2:-2].max() < 0.05 * deviation
    assert normal or distances[[0, -1]].max() < 0.05 * deviation
    assert len(np.unique(ours)) > 0.9 * len(ours)


@pytest.mark.parametrize(
    "initializer",
    [
        keras.initializers.Constant(0.5),
        keras.initializers.OrthogonalInitializer(seed=1),
        keras.initializers.RandomNormal(seed=keras.random.SeedGenerator(1)),
    ],
    ids=["constant", "orthogonal", "seed generator"],
)
def test_what_it_does_not_know_keras_draws(initializer):
    again = type(initializer).from_config(initializer.get_config())
    np.testing.assert_array_equal(
        array(values_of(initializer, (5, 4))), array(again((5, 4)))
    )


def test_plain_values_are_those_of_keras():
    keras_vit.kernels.use("plain")
    values = array(values_of(keras.initializers.GlorotUniform(seed=1), (5, 4)))
    keras_vit.kernels.use("fast")
    expected = array(keras.initializers.GlorotUniform(seed=1)((5, 4)))
    np.testing.assert_array_equal(values, expected)


def test_same_seed_same_model():
    def weights():
        keras.utils.set_random_seed(3)
        return [array(w) for w in tiny_vit(pooling="map", registers=2).weights]

    for first, second in zip(weights(), weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_no_two_random_weights_are_alike():
    kernels = [array(w).ravel()[:20] for w in tiny_vit().weights if w.name == "kernel"]
    random = [kernel for kernel in kernels if kernel.any()]
    assert len(random) == 9  # All except the classifier's.
    assert len(np.unique(np.concatenate(random))) == 20 * 9


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_dtype_is_the_variables(dtype):
    weight = values_of("glorot_uniform", (20, 10), dtype)
    assert keras.backend.standardize_dtype(weight.dtype) == dtype
    assert array(weight).astype("float32").std() > 0.1


def test_config_is_that_of_keras():
    dense = keras_vit.layers.Dense(2, kernel_initializer="he_normal")
    dense.build((None, 3))
    assert dense.get_config()["kernel_initializer"]["class_name"] == "HeNormal"


@pytest.mark.slow_elsewhere
def test_where_a_checkpoint_follows_only_the_head_is_drawn(tmp_path):
    path = tmp_path / "model.npz"
    save_npz(tiny_vit(), path)
    with checkpoint_follows():
        model = tiny_vit(representation_size=7)
    random = [p for p, w in model.weights_by_path().items() if array(w).std() > 1e-3]
    assert random == ["pre_logits/kernel"]
    model = tiny_vit(weights=path, head="new", representation_size=7)
    kernels = [p for p, w in model.weights_by_path().items() if array(w).std() > 1e-3]
    assert "pre_logits/kernel" in kernels
    assert "block_0/mlp/expand/kernel" in kernels


def test_after_an_error_values_are_drawn_again():
    with pytest.raises(RuntimeError, match="stop"), checkpoint_follows():
        raise RuntimeError("stop")
    assert array(keras_vit.layers.Dense(3)(np.ones((1, 4)))).any()
