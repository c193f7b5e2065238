import keras
import numpy as np
import pytest

from keras_vit.layers import LayerNorm, RMSNorm
from keras_vit.layers.norms import make_norm
from tests.cases import array, perturb, random_array, weights_of
from tests.formulas import layer_norm, rms_norm


def test_rms_formula():
    x = random_array(2, 5, 16)
    layer = RMSNorm(1e-3)
    layer.build(x.shape)
    gamma = weights_of(perturb(layer))["gamma"]
    np.testing.assert_allclose(array(layer(x)), rms_norm(x, gamma, 1e-3), atol=1e-5)


@pytest.mark.parametrize(("norm", "formula"), [(LayerNorm, layer_norm), (RMSNorm, None)])
def test_norms_without_weights(norm, formula):
    x = random_array(2, 5, 16)
    layer = norm(affine=False)
    expected = rms_norm(x, 1.0) if formula is None else formula(x, 1.0, 0.0)
    np.testing.assert_allclose(array(layer(x)), expected, atol=1e-5)
    assert layer.weights == []
    if keras.backend.backend() != "jax":  # JAX has no float64 unless it is told to.
        wide = array(norm(affine=False, dtype="float64")(x.astype("float64")))
        np.testing.assert_allclose(wide, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rms_of_large_activations(dtype):
    x = random_array(2, 5, 16, scale=1000)  # The squares overflow in float16.
    y = RMSNorm(dtype=f"mixed_{dtype}")(x)
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    y = array(keras.ops.cast(y, "float32"))
    np.testing.assert_allclose(y, rms_norm(x, 1.0), atol=0.05)


def test_rms_multiplies_by_weights_in_float32():
    layer = RMSNorm(dtype="mixed_bfloat16")
    layer.build((1, 2))
    layer.gamma.assign([1.0048828125, 1.0])  # In bfloat16: 1.0078125.
    y = layer(np.array([[3.0, 4.0]], "float32"))
    # 0.8527 in bfloat16; with rounded weights, 0.8552 would become 0.85546875.
    assert float(y[0, 0]) == 0.8515625


@pytest.mark.any_backend
def test_words_and_layers():
    assert type(make_norm("rms", 1e-5, name="norm")) is RMSNorm
    copy = make_norm(LayerNorm(affine=False), 1e-5, name="norm")
    assert (copy.name, copy.epsilon, copy.affine) == ("norm", 1e-5, False)
    with pytest.raises(ValueError, match=r"Unknown norm 'batch'.*'layer', 'rms'"):
        make_norm("batch", 1e-5)
    with pytest.raises(ValueError, match=r"epsilon=0.01.*requires 1e-05"):
        make_norm(RMSNorm(0.01), 1e-5)
    with pytest.raises(ValueError, match=r"norm must be a keras_vit.layers.LayerNorm"):
        make_norm(keras.layers.Dense(3), 1e-5)
