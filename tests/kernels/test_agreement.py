"""Agreement of fast forms with their plain formulas, in values and gradients."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

from keras_vit.kernels import attention
from keras_vit.kernels.gradient import hand_written_gradient
from keras_vit.layers import Dense
from keras_vit.layers.attention import self_attention
from keras_vit.layers.mlp import gelu_exact, gelu_tanh
from keras_vit.layers.norms import layer_norm
from tests.cases import array, output_and_gradients, random_array

ATTENTION = self_attention, {"num_heads": 3, "scale": 0.5}
CAUSAL = self_attention, {"num_heads": 3, "scale": 0.5, "causal": True}
# Name: function, its options, shapes of its arguments.
CASES = {
    "gelu_tanh": (gelu_tanh, {}, [(5, 7, 24)]),
    "gelu_exact": (gelu_exact, {}, [(5, 7, 24)]),
    "layer_norm": (layer_norm, {"epsilon": 1e-6}, [(5, 7, 24), (24,), (24,)]),
    "attention": (*ATTENTION, [(2, 7, 36)]),
    "attention by blocks": (*ATTENTION, [(2, 23, 36)]),
    "causal attention": (*CAUSAL, [(2, 7, 36)]),
    "causal attention by blocks": (*CAUSAL, [(2, 23, 36)]),
}


def forms(name):
    """Return the fast form, the plain formula and the shapes of their arguments."""
    function, options, shapes = CASES[name]
    fast, plain = (functools.partial(f, **options) for f in (function, function.plain))
    return fast, plain, shapes


# torch's fused kernel computes the gradient of softmax from its rounded output.
SLACK = 5 if keras.backend.backend() == "torch" else 1.5
# Errors that are allowed even where the plain formula has none: rounding of the result,
# and in float32 the order of sums.
TOLERANCE = {"float32": 2e-6, "bfloat16": 2**-8, "float16": 2**-11}


@pytest.fixture
def _small_blocks(monkeypatch):
    """Let 23 tokens take five blocks and part of one, and 7 tokens no blocks."""
    monkeypatch.setattr(attention, "BLOCKS_FROM", 16)
    monkeypatch.setattr(attention, "BLOCK", 4)


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize(
    "dtype",
    [
        "float32",
        pytest.param("bfloat16", marks=pytest.mark.slow_elsewhere),
        pytest.param("float16", marks=pytest.mark.any_backend),
    ],
)
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_the_plain_formula(name, dtype):
    fast, plain, shapes = forms(name)
    arrays = [
        ops.cast(random_array(*shape, seed=i, scale=2), dtype)
        for i, shape in enumerate(shapes)
    ]
    upstream = ops.cast(random_array(*plain(*arrays).shape, seed=9), dtype)
    output, gradients = output_and_gradients(fast, arrays, upstream)
    # The reference is computed in float32 from the same rounded arguments.
    wide = [ops.cast(x, "float32") for x in arrays]
    expected, expected_gradients = output_and_gradients(
        plain, wide, ops.cast(upstream, "float32")
    )
    rounded, rounded_gradients = output_and_gradients(plain, arrays, upstream)
    for own_result, plain_result, result in zip(
        [output, *gradients],
        [rounded, *rounded_gradients],
        [expected, *expected_gradients],
        strict=True,
    ):
        scale = max(1.0, np.abs(result).max())
        error = np.abs(own_result - result).max() / scale
        plain_error = np.abs(plain_result - result).max() / scale
        assert error <= max(TOLERANCE[dtype], SLACK * plain_error)


@pytest.mark.parametrize("name", CASES)
def test_keeps_the_dtype(name):
    fast, _, shapes = forms(name)
    for dtype in TOLERANCE:
        arrays = [ops.cast(random_array(*shape), dtype) for shape in shapes]
        assert keras.backend.standardize_dtype(fast(*arrays).dtype) == dtype


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_large_values_stay_finite(name, dtype):
    fast, _, shapes = forms(name)
    # Logits reach 1e4, and the cube in GELU overflows in float16.
    scale = 30 if "attention" in name else 300
    arrays = [ops.cast(random_array(*shape, scale=scale), dtype) for shape in shapes]
    upstream = ops.cast(random_array(*fast(*arrays).shape), dtype)
    if name == "layer_norm":
        arrays[1:] = [ops.cast(random_array(24), dtype) for _ in range(2)]
    output, gradients = output_and_gradients(fast, arrays, upstream)
    for x in [output, *gradients]:
        assert np.all(np.isfinite(x))


@pytest.mark.usefixtures("_small_blocks")
@pytest.mark.parametrize(
    "length",
    [17, *(pytest.param(n, marks=pytest.mark.any_backend) for n in (16, 20))],
)
def test_blocks_that_fit_and_blocks_that_do_not(length):
    qkv, upstream = random_array(1, length, 36), random_array(1, length, 12, seed=1)
    fast, plain, _ = forms("attention")
    blocks = output_and_gradients(fast, [qkv], upstream)
    expected = output_and_gradients(plain, [qkv], upstream)
    np.testing.assert_allclose(blocks[0], expected[0], atol=2e-6)
    np.testing.assert_allclose(blocks[1][0], expected[1][0], atol=2e-6)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("shape", [(8,), (5, 8), (2, 5, 8), (2, 3, 4, 8), (0, 5, 8)])
def test_dense_is_keras_dense(shape):
    own, reference = Dense(3), keras.layers.Dense(3)
    x = random_array(2, *shape) if len(shape) == 1 else random_array(*shape)
    own.build(x.shape)
    reference.build(x.shape)
    own.kernel.assign(random_array(8, 3))
    own.bias.assign(random_array(3, seed=1))
    reference.set_weights(own.get_weights())
    assert own(x).shape == reference(x).shape
    np.testing.assert_allclose(array(own(x)), array(reference(x)), atol=1e-6)


def test_a_wrong_gradient_is_seen():
    """Check that the comparison above can fail."""
    if keras.backend.backend() == "torch":
        pytest.skip("torch runs the plain formula")

    @hand_written_gradient(torch=ops.square)
    def square(x):
        return x * x, lambda upstream: (3 * x * upstream,)

    x, upstream = random_array(3), np.ones(3, "float32")
    _, (wrong,) = output_and_gradients(square, [x], upstream)
    np.testing.assert_allclose(wrong, 3 * x, rtol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's checks")
@pytest.mark.parametrize("function", [gelu_tanh, gelu_exact])
def test_beside_checks_of_numerics(function, tensorflow):
    arguments = function, [random_array(2, 8)], random_array(2, 8, seed=1)
    expected, (expected_gradient,) = output_and_gradients(*arguments)
    tensorflow.debugging.enable_check_numerics()
    try:
        checked, (gradient,) = output_and_gradients(*arguments)
    finally:
        tensorflow.debugging.disable_check_numerics()
    np.testing.assert_allclose(checked, expected, atol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)
