import keras
import numpy as np
import pytest

from keras_vit.layers import (
    MLP,
    GhostBlock,
    LayerScale,
    SelfAttention,
    StochasticDepth,
    TransformerBlock,
)
from tests.cases import array, perturb, random_array, weights_of
from tests.formulas import block, layer_norm, parallel_block, post_norm_block


@pytest.mark.parametrize("layer_scale", [None, 0.1])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_formula(layer_scale, qkv_bias):
    x = random_array(2, 5, 16)
    layer = TransformerBlock(4, 24, layer_scale=layer_scale, qkv_bias=qkv_bias)
    layer.build(x.shape)
    w = weights_of(perturb(layer))
    np.testing.assert_allclose(array(layer(x)), block(x, w, 4), atol=2e-5)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("order", "formula"), [("post_norm", post_norm_block), ("parallel", parallel_block)]
)
def test_formula_of_other_orders(order, formula):
    x = random_array(2, 5, 16)
    layer = TransformerBlock(4, 24, layer_scale=0.1, order=order)
    layer.build(x.shape)
    w = weights_of(perturb(layer))
    np.testing.assert_allclose(array(layer(x)), formula(x, w, 4), atol=2e-5)


@pytest.mark.any_backend
def test_layers_that_contradict_the_block():
    def block(**parts):
        return TransformerBlock(4, 24, **parts)

    with pytest.raises(ValueError, match=r"num_heads=2.*requires 4: omit num_heads"):
        block(attention=SelfAttention(2))
    with pytest.raises(ValueError, match=r"hidden_dim=8.*requires 24"):
        block(mlp=MLP(8))
    with pytest.raises(ValueError, match=r"backbones\.GhostMLP; received"):
        GhostBlock(4, 32, mlp="swiglu")
    used = MLP(24)
    used.build((None, 16))
    with pytest.raises(ValueError, match="has weights already"):
        block(mlp=used)


@pytest.mark.parametrize(
    "rate", ["dropout_rate", "attention_dropout_rate", "stochastic_depth_rate"]
)
def test_each_rate_acts_in_training_only(rate):
    x = random_array(8, 5, 16)
    layer = TransformerBlock(4, 24, **{rate: 0.5})
    still = array(layer(x, training=False))
    np.testing.assert_array_equal(array(layer(x)), still)
    assert not np.allclose(array(layer(x, training=True)), still)


@pytest.mark.any_backend
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_normalisation_survives_large_activations(dtype):
    # The squares overflow in float16.
    x = random_array(2, 5, 16, scale=1000)
    layer = TransformerBlock(4, 24, dtype=f"mixed_{dtype}")
    layer.build(x.shape)
    perturb(layer)
    # Without larger branches, the sums with `x` would round them away.
    for last in (layer.attention.projection, layer.mlp.contract):
        last.kernel.assign(1000 * last.kernel)
    w = weights_of(layer)
    y = array(keras.ops.cast(layer.attention_norm(x), "float32"))
    expected = layer_norm(x, w["attention_norm/gamma"], w["attention_norm/beta"])
    np.testing.assert_allclose(y, expected, atol=0.05)
    added = array(keras.ops.cast(layer(x), "float32")) - x
    expected = block(x, w, 4) - x
    atol = {"float16": 5, "bfloat16": 40}[dtype]  # The values are about 860.
    np.testing.assert_allclose(added, expected, rtol=0, atol=atol)


def test_layer_scale_formula():
    x = random_array(2, 5, 16)
    layer = LayerScale(0.1)
    layer.build(x.shape)
    np.testing.assert_allclose(weights_of(layer)["gamma"], np.full(16, 0.1), rtol=1e-6)
    expected = x * weights_of(perturb(layer))["gamma"]
    np.testing.assert_allclose(array(layer(x)), expected, atol=1e-6)


def test_stochastic_depth_drops_whole_images_and_rescales_the_others():
    x = np.abs(random_array(4000, 2, 3)) + 0.1
    y = array(StochasticDepth(0.3, seed=1)(x, training=True))
    dropped = np.all(y == 0, axis=(1, 2))
    np.testing.assert_allclose(y[~dropped], x[~dropped] / 0.7, rtol=1e-5)
    # Three standard deviations of a binomial around 0.3.
    assert abs(dropped.mean() - 0.3) < 3 * np.sqrt(0.3 * 0.7 / len(x))


def test_stochastic_depth_is_only_for_training():
    x = random_array(4, 2, 3)
    np.testing.assert_array_equal(array(StochasticDepth(0.5)(x, training=False)), x)


@pytest.mark.slow_elsewhere
def test_a_block_adds_rescaled_branches_or_none():
    x = random_array(64, 3, 8)
    layer = TransformerBlock(2, 8, stochastic_depth_rate=0.2)
    layer.build(x.shape)
    perturb(layer)
    layer.mlp.contract.kernel.assign(np.zeros((8, 8)))
    layer.mlp.contract.bias.assign(np.zeros(8))
    branch = array(layer(x, training=False)) - x
    added = array(layer(x, training=True)) - x
    dropped = np.all(added == 0, axis=(1, 2))
    assert 0 < dropped.sum() < 40
    np.testing.assert_allclose(added[~dropped], branch[~dropped] / 0.8, atol=1e-5)
