import numpy as np
import pytest

from keras_vit.layers import MLP, GatedMLP
from tests.cases import array, perturb, random_array, weights_of
from tests.formulas import gated_mlp, gelu_exact, gelu_tanh, mlp

ACTIVATIONS = {
    "gelu_tanh": gelu_tanh,
    "gelu": gelu_exact,
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "relu": lambda x: np.maximum(x, 0),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_formula(name):
    x = random_array(2, 5, 16, scale=3)
    layer = MLP(24, name)
    layer.build(x.shape)
    w = weights_of(perturb(layer))
    expected = mlp(x, w, ACTIVATIONS[name])
    np.testing.assert_allclose(array(layer(x)), expected, atol=2e-5)


@pytest.mark.parametrize("name", ["swishy", None, 3])
def test_unknown_activation(name):
    with pytest.raises(ValueError, match=r"Unknown activation.*'gelu_tanh'.*'gelu'"):
        MLP(24, name)


def test_dropout_follows_both_dense_layers():
    layer = MLP(64, "relu", dropout_rate=0.5)
    layer.build((None, 10, 64))
    for dense in (layer.expand, layer.contract):
        dense.kernel.assign(np.eye(64))
        dense.bias.assign(np.zeros(64))
    outputs = array(layer(np.ones((4, 10, 64), "float32"), training=True))
    assert set(np.unique(outputs)) == {0.0, 4.0}
    assert 0.2 < np.mean(outputs > 0) < 0.3


@pytest.mark.parametrize("options", [{}, {"inner_norm": True}, {"use_bias": False}])
@pytest.mark.parametrize(("kind", "formula"), [(MLP, mlp), (GatedMLP, gated_mlp)])
def test_formula_of_the_options(kind, formula, options):
    x = random_array(2, 5, 16)
    layer = kind(24, **options)
    layer.build(x.shape)
    w = weights_of(perturb(layer))
    assert ("expand/bias" in w) == ("use_bias" not in options)
    np.testing.assert_allclose(array(layer(x)), formula(x, w), atol=2e-5)


@pytest.mark.any_backend
def test_gate_and_hidden_layer_start_like_two_glorot_kernels():
    layer = GatedMLP(96)
    layer.build((None, 32))
    limit = np.sqrt(6 / (32 + 96))
    kernel = array(layer.expand.kernel)
    assert np.abs(kernel).max() <= limit
    np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.03)
