import numpy as np
import pytest

from keras_vit.layers import MLP
from tests.cases import array, perturb, random_array, weights_of
from tests.formulas import gelu_exact, gelu_tanh, mlp

ACTIVATIONS = {
    "gelu_tanh": gelu_tanh,
    "gelu": gelu_exact,
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
