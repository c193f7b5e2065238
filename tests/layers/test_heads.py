import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.layers import (
    AttentionPooling,
    Classifier,
    GlobalAveragePooling,
    PreLogits,
    TokenAndAveragePooling,
    TokenPooling,
)
from tests.cases import (
    array,
    mostly_slow_elsewhere,
    perturb,
    random_array,
    weights_of,
)
from tests.formulas import below, dense, layer_norm, mlp, softmax


def test_token_pooling_takes_the_first():
    tokens = random_array(2, 5, 8)
    np.testing.assert_array_equal(array(TokenPooling()(tokens)), tokens[:, 0])


@pytest.mark.parametrize("prefix", [0, 1, 4])
def test_gap_leaves_the_prefix_out(prefix):
    tokens = random_array(2, 5, 8)
    pooled = array(GlobalAveragePooling(prefix)(tokens))
    np.testing.assert_allclose(pooled, tokens[:, prefix:].mean(1), atol=1e-6)


def test_class_token_beside_the_mean():
    tokens = random_array(2, 5, 8)
    pooled = array(TokenAndAveragePooling(2)(tokens))
    expected = np.concatenate([tokens[:, 0], tokens[:, 2:].mean(1)], axis=-1)
    np.testing.assert_allclose(pooled, expected, atol=1e-6)
    model = keras_vit.ViTTi16(
        input_shape=(32, 32, 3), classes=3, pooling="token_gap", num_layers=1
    )
    assert model.get_layer("classifier").kernel.shape == (384, 3)
    with pytest.raises(ValueError, match="'token_gap' needs the class token"):
        keras_vit.ViTTi16(pooling="token_gap", class_token=False)


def test_the_pooled_token_exists():
    assert TokenPooling(-3)(random_array(2, 3, 4)).shape == (2, 4)
    with pytest.raises(ValueError, match=r"an index from -3 to 2.*index=3"):
        TokenPooling(3)(random_array(2, 3, 4))
    assert TokenPooling(3)(keras.Input((None, 4))).shape == (None, 4)


def test_gap_needs_a_grid():
    with pytest.raises(ValueError, match=r"num_prefix_tokens=5 needs more.*\(2, 5, 8\)"):
        GlobalAveragePooling(5)(random_array(2, 5, 8))


def test_gap_does_not_overflow_in_float16():
    tokens = np.full((1, 300, 4), 1000.0, "float16")
    pooled = array(GlobalAveragePooling(dtype="float16")(tokens))
    np.testing.assert_array_equal(pooled, np.full((1, 4), 1000.0))


@pytest.mark.parametrize("prefix", mostly_slow_elsewhere([0, 2], 2))
def test_attention_pooling_formula(prefix):
    tokens = random_array(2, 6, 8)
    layer = AttentionPooling(2, 12, prefix)
    layer.build(tokens.shape)
    w = weights_of(perturb(layer))
    grid = tokens[:, prefix:]
    query = dense(w["probe"][0], w, "query")
    key, value = np.split(dense(grid, w, "key_value"), 2, axis=-1)
    mixed = np.zeros((2, 8))
    for head in (slice(0, 4), slice(4, 8)):
        for image in range(2):
            logits = query[0, head] @ key[image, :, head].T / 2
            mixed[image, head] = softmax(logits) @ value[image, :, head]
    x = dense(mixed, w, "projection")
    y = layer_norm(x, w["norm/gamma"], w["norm/beta"])
    expected = x + mlp(y, below(w, "mlp/"))
    np.testing.assert_allclose(array(layer(tokens)), expected, atol=2e-5)


def test_pre_logits_formula():
    x = random_array(2, 8)
    layer = PreLogits(6)
    layer.build(x.shape)
    w = weights_of(perturb(layer))
    expected = np.tanh(x @ w["kernel"] + w["bias"])
    np.testing.assert_allclose(array(layer(x)), expected, atol=1e-6)


def test_classifier_starts_at_its_bias():
    layer = Classifier(3, bias_initializer=keras.initializers.Constant(-10.0))
    np.testing.assert_array_equal(
        array(layer(random_array(2, 8))), np.full((2, 3), -10.0)
    )


def test_classifier_formula():
    x = random_array(2, 8)
    layer = Classifier(3, activation="softmax")
    layer.build(x.shape)
    w = weights_of(perturb(layer))
    expected = softmax(x @ w["kernel"] + w["bias"])
    np.testing.assert_allclose(array(layer(x)), expected, atol=1e-6)
