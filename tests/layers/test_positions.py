import math

import keras
import numpy as np
import pytest

from keras_vit.layers import (
    LearnedPositions,
    LearnedPositions2D,
    RelativePositionBias,
    RelativePositionMLP,
    RelativePositions,
    SinCosPositions2D,
)
from tests.cases import array, perturb, random_array, weights_of
from tests.formulas import dense

GRID = (2, 3)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_learned_adds_a_row_to_each_token(prefix):
    layer = LearnedPositions(GRID, prefix)
    tokens = random_array(2, prefix + 6, 8)
    layer.build(tokens.shape)
    expected = tokens + weights_of(perturb(layer))["embedding"]
    np.testing.assert_allclose(array(layer(tokens)), expected, atol=1e-6)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_learned_2d_adds_column_then_row_half(prefix):
    layer = LearnedPositions2D(GRID, prefix)
    tokens = random_array(2, prefix + 6, 8)
    layer.build(tokens.shape)
    w = weights_of(perturb(layer))
    expected = tokens.astype("float64")
    for y in range(2):
        for x in range(3):
            expected[:, prefix + 3 * y + x, :4] += w["columns"][x]
            expected[:, prefix + 3 * y + x, 4:] += w["rows"][y]
    np.testing.assert_allclose(array(layer(tokens)), expected, atol=1e-6)


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_sincos_formula(prefix):
    tokens = random_array(2, prefix + 6, 12)
    expected = tokens.astype("float64")
    for y in range(2):
        for x in range(3):
            for i in range(3):
                frequency = 1 / 10000 ** (i / 2)
                token = expected[:, prefix + 3 * y + x]
                token[:, i] += math.sin(x * frequency)
                token[:, 3 + i] += math.cos(x * frequency)
                token[:, 6 + i] += math.sin(y * frequency)
                token[:, 9 + i] += math.cos(y * frequency)
    layer = SinCosPositions2D(GRID, prefix)
    np.testing.assert_allclose(array(layer(tokens)), expected, atol=1e-6)
    assert layer.weights == []


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_relative_formula(prefix):
    layer = RelativePositions(GRID, prefix)
    query = random_array(2, 4, prefix + 6, 8)
    layer.build(query.shape)
    w = weights_of(perturb(layer))
    expected = np.zeros((2, 4, prefix + 6, prefix + 6))
    for i in range(6):
        for j in range(6):
            vector = w["rows"][i // 3 - j // 3 + 1] + w["columns"][i % 3 - j % 3 + 2]
            expected[:, :, prefix + i, prefix + j] = query[:, :, prefix + i] @ vector
    np.testing.assert_allclose(array(layer(query)), expected, atol=1e-5)


@pytest.mark.parametrize(
    "kind", [LearnedPositions, LearnedPositions2D, SinCosPositions2D]
)
def test_wrong_number_of_tokens(kind):
    with pytest.raises(ValueError, match=r"grid of 2x3 and 1 prefix tokens needs 7.*8"):
        kind(GRID, 1)(random_array(2, 8, 8))


def test_widths_that_the_kinds_do_not_allow():
    with pytest.raises(ValueError, match="divisible by 2; received 7"):
        LearnedPositions2D(GRID)(random_array(2, 6, 7))
    with pytest.raises(ValueError, match="divisible by 4; received 10"):
        SinCosPositions2D(GRID)(random_array(2, 6, 10))


def test_no_two_tables_start_alike():
    columns_and_rows = LearnedPositions2D((3, 3))
    columns_and_rows.build((None, 9, 8))
    blocks = [RelativePositions((3, 3)) for _ in range(2)]
    for layer in blocks:
        layer.build((None, 2, 9, 4))
    tables = [array(w) for layer in (columns_and_rows, *blocks) for w in layer.weights]
    for i, table in enumerate(tables):
        assert 0.01 < table.std() < 0.03
        for other in tables[:i]:
            assert not np.any(table.ravel()[:9] == other.ravel()[:9])


def test_the_random_seed_decides_how_tables_start():
    def table(seed):
        keras.utils.set_random_seed(seed)
        layer = LearnedPositions(GRID)
        layer.build((None, 6, 8))
        return array(layer.embedding)

    np.testing.assert_array_equal(table(1), table(1))
    assert not np.any(table(1) == table(2))


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_relative_bias_formula(prefix):
    layer = RelativePositionBias(GRID, prefix)
    queries = random_array(2, 4, prefix + 6, 8)
    layer.build(queries.shape)
    table = weights_of(perturb(layer))["table"]
    assert table.shape == (15 + 3 * (prefix > 0), 4)
    expected = np.zeros((4, prefix + 6, prefix + 6))
    for i in range(-prefix, 6):
        for j in range(-prefix, 6):
            row = 5 * (i // 3 - j // 3 + 1) + i % 3 - j % 3 + 2
            if i < 0 or j < 0:
                row = 15 if j >= 0 else 16 if i >= 0 else 17
            expected[:, prefix + i, prefix + j] = table[row]
    np.testing.assert_allclose(array(layer(queries)), expected, atol=1e-6)


def test_relative_mlp_formula():
    layer = RelativePositionMLP(GRID, 1, hidden_dim=12)
    queries = random_array(2, 4, 7, 8)
    layer.build(queries.shape)
    w = weights_of(perturb(layer))
    expected = np.zeros((4, 7, 7))
    for i in range(6):
        for j in range(6):
            offset = np.array([i // 3 - j // 3, i % 3 - j % 3])
            offset = np.sign(offset) * np.log(1 + np.abs(offset))
            hidden = np.maximum(dense(offset, w, "expand"), 0)
            expected[:, 1 + i, 1 + j] = dense(hidden, w, "contract")
    np.testing.assert_allclose(array(layer(queries)), expected, atol=1e-5)
