"""Token layers and the tokens-to-token module, compared with NumPy formulas."""

import keras
import numpy as np
import pytest

from keras_vit.kernels.attention import BLOCKS_FROM
from keras_vit.layers import (
    SinCosPositions1D,
    TokenPerformer,
    TokensToToken,
    TokenTransformer,
)
from keras_vit.layers.tokens_to_token import performer_attention
from tests.cases import (
    array,
    mostly_slow_elsewhere,
    output_and_gradients,
    perturb,
    random_array,
    weights_of,
)
from tests.formulas import below, dense, gelu_exact, layer_norm, mlp, softmax, unfold


def performer(x, w):
    """Compute performer attention token by token, in the original order K, Q, V."""
    key, query, value = np.split(x @ w["qkv/kernel"] + w["qkv/bias"], 3, axis=-1)
    features = w["features"]

    def phi(x):
        exponent = x @ features.T - (x**2).sum(-1, keepdims=True) / 2
        return np.exp(exponent) / np.sqrt(len(features))

    out = np.zeros_like(value)
    for image in range(len(x)):
        kernel = phi(query[image]) @ phi(key[image]).T
        out[image] = kernel @ value[image] / (kernel.sum(-1, keepdims=True) + 1e-8)
    return value, out


def transformer(x, w):
    query, key, value = np.split(x @ w["qkv/kernel"], 3, axis=-1)
    logits = query @ key.transpose(0, 2, 1) / np.sqrt(x.shape[-1])
    return value, softmax(logits) @ value


def token_layer(x, w, attention):
    x = layer_norm(x, w["attention_norm/gamma"], w["attention_norm/beta"], 1e-5)
    value, mixed = attention(x, w)
    x = value + dense(mixed, w, "projection")
    y = layer_norm(x, w["mlp_norm/gamma"], w["mlp_norm/beta"], 1e-5)
    return x + mlp(y, below(w, "mlp/"), gelu_exact)


FORMULAS = {
    "performer": lambda x, w: token_layer(x, w, performer),
    "transformer": lambda x, w: token_layer(x, w, transformer),
    "convolution": lambda x, w: x @ w["kernel"] + w["bias"],
}
LAYERS = {"performer": TokenPerformer, "transformer": TokenTransformer}


@pytest.mark.parametrize("name", LAYERS)
def test_token_layer(name):
    layer = LAYERS[name](8)
    x = random_array(2, 10, 27)
    layer.build(x.shape)
    perturb(layer)
    expected = FORMULAS[name](x.astype("float64"), weights_of(layer))
    np.testing.assert_allclose(array(layer(x)), expected, rtol=0, atol=1e-5)


@pytest.mark.slow_elsewhere
def test_many_tokens_go_by_blocks():
    layer = TokenTransformer(4)
    x = random_array(1, BLOCKS_FROM + 3, 9)
    layer.build(x.shape)
    perturb(layer)
    expected = FORMULAS["transformer"](x.astype("float64"), weights_of(layer))
    np.testing.assert_allclose(array(layer(x)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tokens", mostly_slow_elsewhere(FORMULAS, "transformer"))
def test_three_steps(tokens):
    module = TokensToToken(tokens, token_dim=6)
    images = random_array(2, 32, 48, 3)
    module.build(images.shape)
    perturb(module)
    x = images.astype("float64")
    for i, (sizes, grid) in enumerate([((7, 4, 2), (8, 12)), ((3, 2, 1), (4, 6))]):
        x = unfold(x, *sizes)
        x = FORMULAS[tokens](x, below(weights_of(module), f"{tokens}_{i}/"))
        x = x.reshape(2, *grid, 6)
    expected = unfold(x, 3, 2, 1).reshape(2, 2, 3, 54)
    inputs = keras.Input(images.shape[1:])
    outputs = keras.Model(inputs, module(inputs)).predict(images, verbose=0)
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-4)


def test_features_are_orthogonal_and_frozen():
    layer = TokenPerformer(8)
    layer.build((None, 5, 27))
    features = array(layer.features)
    assert features.shape == (4, 8)
    np.testing.assert_allclose(features @ features.T, 4 * np.eye(4), atol=1e-5)
    assert not layer.features.trainable
    assert len(layer.trainable_weights) == len(layer.weights) - 1


@pytest.mark.any_backend
def test_more_features_come_nearer_to_softmax():
    query, key, value = (random_array(1, 12, 8, seed=i, scale=0.3) for i in range(3))
    exact = softmax(query @ key.transpose(0, 2, 1)) @ value
    errors = []
    for number in (8, 128, 2048):
        squares = []
        for seed in range(20):
            orthogonal = keras.initializers.Orthogonal(number**0.5, seed=seed)
            features = orthogonal((number, 8), "float32")
            tensors = (keras.ops.convert_to_tensor(x) for x in (query, key, value))
            mixed = performer_attention(*tensors, features)
            squares.append(np.mean((array(mixed) - exact) ** 2))
        errors.append(np.mean(squares) ** 0.5)
    # The error falls with about the square root of the number of features, which grows
    # by a factor of 16.
    ratios = np.array(errors[1:]) / errors[:-1]
    assert np.all(ratios < 0.5), errors
    assert errors[-1] < 0.005, errors


@pytest.mark.any_backend
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("performer", "projection"),
        pytest.param("performer", "input", marks=pytest.mark.any_backend),
        pytest.param("transformer", "input", marks=pytest.mark.any_backend),
    ],
)
def test_large_numbers_stay_finite(name, dtype, where):
    """Check values of 1000 in the input, or after the norm in QKV."""
    layer = LAYERS[name](16, dtype=dtype)
    layer.build((None, 20, 27))
    scale = 1.0
    if where == "input":
        scale = 1e3
    else:
        layer.qkv.kernel.assign(random_array(27, 48, seed=1, scale=200.0))
    x = keras.ops.cast(random_array(2, 20, 27, scale=scale), layer.compute_dtype)
    upstream = keras.ops.ones((2, 20, 16), layer.compute_dtype)
    if where == "projection":
        qkv = layer.qkv(layer.attention_norm(x))
        assert float(keras.ops.max(keras.ops.abs(qkv))) > 1e3
    output, (gradient,) = output_and_gradients(layer, [x], upstream)
    assert np.all(np.isfinite(output))
    assert np.all(np.isfinite(gradient))
    assert np.any(gradient)


def test_features_in_float32_under_half_precision():
    """Check that squares are computed in float32: 300**2 overflows float16."""
    query, key, value = (random_array(1, 6, 8, seed=i) for i in range(3))
    features = random_array(4, 8, seed=3, scale=0.1)
    query[0, 0] = 300.0
    half = [keras.ops.cast(x, "float16") for x in (query, key, value)]
    rounded = [array(keras.ops.cast(x, "float32")) for x in half]
    mixed = performer_attention(*half, keras.ops.convert_to_tensor(features))
    exact = performer_attention(*map(keras.ops.convert_to_tensor, (*rounded, features)))
    np.testing.assert_allclose(
        array(keras.ops.cast(mixed, "float32")), array(exact), atol=1e-3
    )


def test_positions():
    positions = SinCosPositions1D((2, 3), num_prefix_tokens=1)
    table = array(positions(np.zeros((1, 7, 6), "float32")))[0]
    for place in range(7):
        for i in range(3):
            angle = place / 10000 ** (2 * i / 6)
            expected = [np.sin(angle), np.cos(angle)]
            np.testing.assert_allclose(
                table[place, 2 * i : 2 * i + 2], expected, atol=1e-6
            )
    assert not positions.trainable_weights
    other = SinCosPositions1D((3, 3), num_prefix_tokens=1)
    longer = array(other(np.zeros((1, 10, 6), "float32")))
    old = {"embedding": array(positions.embedding)}
    np.testing.assert_array_equal(
        other.resized_tables(old, (2, 3), "google")["embedding"], longer
    )
    assert positions.resized_tables(old, (2, 3), "google") == old


@pytest.mark.parametrize(
    ("arguments", "shape", "message"),
    [
        ({"tokens": "linear"}, None, "Unknown tokens 'linear'.*'performer'"),
        ({"token_dim": 1}, None, "token_dim must be an int, 2 or more; received 1"),
        ({}, (1, 225, 230, 3), r"225x230 pixels.*multiples of 16.*Resize to 224x224"),
        ({}, (1, 8, 250, 3), r"Resize to 16x256, input_shape=\(16, 256, 3\)"),
        ({}, (1, None, 32, 3), "all but the batch known"),
    ],
)
def test_errors(arguments, shape, message):
    with pytest.raises(ValueError, match=message):
        TokensToToken(**arguments).build(shape)
