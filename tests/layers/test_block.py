import numpy as np
import pytest

from keras_vit.layers import TransformerBlock
from tests.cases import array, perturb, random_array, weights_of
from tests.formulas import block


@pytest.mark.parametrize("layer_scale", [None, 0.1])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_formula(layer_scale, qkv_bias):
    x = random_array(2, 5, 16)
    layer = TransformerBlock(4, 24, layer_scale=layer_scale, qkv_bias=qkv_bias)
    layer.build(x.shape)
    w = weights_of(perturb(layer))
    np.testing.assert_allclose(array(layer(x)), block(x, w, 4), atol=2e-5)


@pytest.mark.parametrize(
    "rate", ["dropout_rate", "attention_dropout_rate", "stochastic_depth_rate"]
)
def test_each_rate_acts_in_training_only(rate):
    x = random_array(8, 5, 16)
    layer = TransformerBlock(4, 24, **{rate: 0.5})
    still = array(layer(x, training=False))
    np.testing.assert_array_equal(array(layer(x)), still)
    assert not np.allclose(array(layer(x, training=True)), still)
