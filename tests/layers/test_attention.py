import keras
import numpy as np
import pytest

from keras_vit.kernels import attention as kernels
from keras_vit.layers import RelativePositions, RotaryPositions, SelfAttention
from tests.cases import (
    array,
    mostly_slow_elsewhere,
    output_and_gradients,
    perturb,
    random_array,
    weights_of,
)
from tests.formulas import attention


@pytest.mark.parametrize("use_qkv_bias", [True, False])
@pytest.mark.parametrize("num_heads", [1, 4])
def test_formula(num_heads, use_qkv_bias):
    tokens = random_array(2, 5, 16)
    layer = SelfAttention(num_heads, use_qkv_bias)
    layer.build(tokens.shape)
    w = weights_of(perturb(layer))
    assert ("qkv/bias" in w) == use_qkv_bias
    expected = attention(tokens, w, num_heads)
    np.testing.assert_allclose(array(layer(tokens)), expected, atol=1e-5)


def test_formula_of_the_norms():
    tokens = random_array(2, 5, 16)
    layer = SelfAttention(4, qk_norm=True, inner_norm=True, use_projection_bias=False)
    layer.build(tokens.shape)
    w = weights_of(perturb(layer))
    assert w["query_norm/gamma"].shape == (4,)
    np.testing.assert_allclose(array(layer(tokens)), attention(tokens, w, 4), atol=1e-5)


def test_keys_without_biases_stay_without():
    layer = SelfAttention(2, use_qkv_bias="qv")
    model = keras.Sequential([keras.Input((5, 8)), layer])
    model.compile(keras.optimizers.Adam(0.1), "mse")
    model.fit(random_array(4, 5, 8), random_array(4, 5, 8, seed=1), verbose=0)
    bias = weights_of(layer)["qkv/bias"].reshape(3, 8)
    assert np.all(bias[1] == 0)
    assert np.all(bias[[0, 2]] != 0)


def test_formula_with_relative_positions():
    tokens = random_array(2, 7, 16)
    layer = SelfAttention(4, positions=RelativePositions((2, 3)))
    layer.build(tokens.shape)
    w = weights_of(perturb(layer))

    def bias(query):
        logits = np.zeros((7, 7))
        for i in range(6):
            for j in range(6):
                vector = w["relative_positions/rows"][i // 3 - j // 3 + 1]
                vector = vector + w["relative_positions/columns"][i % 3 - j % 3 + 2]
                logits[1 + i, 1 + j] = query[1 + i] @ vector
        return logits

    expected = attention(tokens, w, 4, bias)
    np.testing.assert_allclose(array(layer(tokens)), expected, atol=1e-5)


def test_the_fused_kernel_starts_like_three_glorot_kernels():
    layer = SelfAttention(4)
    layer.build((None, 5, 64))
    limit = np.sqrt(6 / (64 + 64))
    kernel = array(layer.qkv.kernel)
    assert np.abs(kernel).max() <= limit
    np.testing.assert_allclose(kernel.std(), limit / np.sqrt(3), rtol=0.03)


def _spy(function, seen):
    def spied(x, *args, **kwargs):
        seen.append(keras.backend.standardize_dtype(x.dtype))
        return function(x, *args, **kwargs)

    return spied


@pytest.mark.parametrize(
    "dtype", mostly_slow_elsewhere(["float16", "bfloat16"], "float16")
)
def test_softmax_in_float32_under_low_precision(dtype, monkeypatch):
    if keras.backend.backend() == "torch":
        pytest.skip("one fused kernel, whose sums are float32 inside")
    seen = []
    for name in ("softmax", "exp"):
        monkeypatch.setattr(keras.ops, name, _spy(getattr(keras.ops, name), seen))
    tokens = random_array(1, 5, 16)
    layer = SelfAttention(4, dtype=f"mixed_{dtype}")
    mixed = layer(tokens)
    assert keras.backend.standardize_dtype(mixed.dtype) == dtype
    assert set(seen) == {"float32"}


@pytest.mark.parametrize(
    "positions", [None, RelativePositions((2, 3)), RotaryPositions((2, 3))]
)
def test_attention_weights_are_what_attention_uses(positions):
    tokens = random_array(2, 7, 16)
    layer = SelfAttention(4, positions=positions)
    layer.build(tokens.shape)
    perturb(layer)
    weights = array(layer.attention_weights(tokens))
    assert weights.shape == (2, 4, 7, 7)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    value = array(layer.qkv(tokens))[..., 32:].reshape(2, 7, 4, 4)
    mixed = np.einsum("bknm,bmkd->bnkd", weights, value).reshape(2, 7, 16)
    expected = array(layer.projection(mixed))
    np.testing.assert_allclose(array(layer(tokens)), expected, atol=1e-5)


def test_dropout_is_only_for_training():
    tokens = random_array(1, 5, 16)
    layer = SelfAttention(4, dropout_rate=0.5)
    still = array(layer(tokens, training=False))
    np.testing.assert_array_equal(array(layer(tokens)), still)
    assert not np.allclose(array(layer(tokens, training=True)), still)


def test_a_relative_grid_of_more_positions_than_tokens():
    with pytest.raises(ValueError, match=r"\(3, 3\) have 9 places; received 5"):
        SelfAttention(4, positions=RelativePositions((3, 3)))(random_array(1, 5, 16))


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"positions": RotaryPositions()}, r"needs grid_shape=\(rows, columns\)"),
        ({"positions": "rope_axial"}, r"such as keras_vit\.layers\.RotaryPositions"),
        ({"use_qkv_bias": "kv"}, "Unknown use_qkv_bias 'kv'"),
    ],
)
def test_options_that_name_nothing(options, message):
    with pytest.raises(ValueError, match=message):
        SelfAttention(2, **options)(random_array(2, 5, 8))


def test_heads_that_do_not_divide_the_width():
    with pytest.raises(ValueError, match=r"num_heads=5.*hidden_dim=16.*nearest.*4"):
        SelfAttention(5)(random_array(1, 5, 16))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("positions", [None, RotaryPositions((2, 3))])
def test_formula_of_causal_attention(positions):
    tokens = random_array(2, 6, 16)
    layer = SelfAttention(4, positions=positions, causal=True)
    layer.build(tokens.shape)
    perturb(layer)
    later = np.triu(np.ones((6, 6), bool), 1)
    weights = array(layer.attention_weights(tokens))
    assert np.all(weights[..., later] == 0)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    if positions is None:
        expected = attention(
            tokens, weights_of(layer), 4, lambda query: np.where(later, -np.inf, 0.0)
        )
        np.testing.assert_allclose(array(layer(tokens)), expected, atol=1e-5)
    value = array(layer.qkv(tokens))[..., 32:].reshape(2, 6, 4, 4)
    mixed = np.einsum("bknm,bmkd->bnkd", weights, value).reshape(2, 6, 16)
    expected = array(layer.projection(mixed))
    np.testing.assert_allclose(array(layer(tokens)), expected, atol=1e-5)


@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("options", [{}, {"positions": RelativePositions((2, 3))}])
def test_causal_attention_does_not_see_later_tokens(options, blocks, monkeypatch):
    if blocks:
        monkeypatch.setattr(kernels, "BLOCKS_FROM", 4)
        monkeypatch.setattr(kernels, "BLOCK", 4)
    tokens = random_array(1, 6, 8)
    layer = SelfAttention(2, causal=True, **options)
    layer.build(tokens.shape)
    perturb(layer)
    upstream = np.zeros((1, 6, 8), "float32")
    upstream[:, 2] = random_array(8)
    output, (gradient,) = output_and_gradients(layer, [tokens], upstream)
    assert np.all(gradient[:, 3:] == 0)
    assert np.all(gradient[:, :3] != 0)
    tokens[:, 3:] += 1
    changed = array(layer(tokens))
    np.testing.assert_array_equal(changed[:, :3], output[:, :3])
    assert np.abs(changed[:, 3:] - output[:, 3:]).min() > 0


def test_causal_attention_with_dropout():
    tokens = random_array(1, 6, 8)
    layer = SelfAttention(2, causal=True, dropout_rate=0.3)
    state = None
    outputs = []
    for later in (tokens[:, 3:], tokens[:, 3:] + 1):
        layer(tokens)  # Builds the layer.
        (seed,) = layer.dropout.variables
        state = array(seed) if state is None else state
        seed.assign(state)
        keras.utils.set_random_seed(0)  # torch draws from its own generator.
        given = np.concatenate([tokens[:, :3], later], axis=1)
        outputs.append(array(layer(given, training=True))[:, :3])
    np.testing.assert_array_equal(*outputs)


def test_causal_attention_does_not_merge_tokens():
    layer = SelfAttention(2, causal=True)
    layer.build((1, 6, 8))
    with pytest.raises(ValueError, match="merged have no order"):
        layer.mixed_with_keys(random_array(1, 6, 8))
