import numpy as np

from keras_vit.layers import LayerScale, StochasticDepth
from tests.cases import array, perturb, random_array, weights_of


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
