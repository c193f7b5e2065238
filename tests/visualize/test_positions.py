import numpy as np
import pytest

from keras_vit.layers import MixedRotaryPositions, RotaryPositions
from keras_vit.visualize import (
    patch_filters,
    position_similarity,
    similarity_and_distance,
)
from tests.cases import array, perturb, tiny_t2t, tiny_vit

# Positions whose similarity falls with the distance even in an untrained network.
FIXED = ["sincos_2d", RotaryPositions(temperature=100.0), MixedRotaryPositions()]
LEARNED = ["learned", "learned_2d", "relative", "relative_bias", "relative_mlp"]


def named(positions):
    return positions if isinstance(positions, str) else type(positions).__name__


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("positions", [*FIXED, *LEARNED, "sincos_1d"], ids=named)
def test_similarity_of_every_kind_of_positions(positions):
    model = tiny_vit(positions=positions)
    if isinstance(positions, str):
        perturb(model)
    similarity = position_similarity(model, block=-1)
    assert similarity.shape == (2, 3, 2, 3)
    assert similarity.dtype == np.float32
    assert np.abs(similarity).max() <= 1 + 1e-6
    if positions not in ("relative_bias", "relative_mlp"):
        itself = similarity.reshape(6, 6).diagonal()
        np.testing.assert_allclose(itself, 1, atol=1e-5)


@pytest.mark.any_backend
@pytest.mark.parametrize("positions", FIXED, ids=named)
def test_similarity_falls_with_the_distance(positions):
    model = tiny_vit(positions=positions, input_shape=(48, 64, 3), hidden_dim=64)
    assert similarity_and_distance(position_similarity(model)) < -0.5
    # After a resize there are more positions of the same kind.
    larger = model.resized((64, 64, 3))
    similarity = position_similarity(larger)
    assert similarity.shape == (8, 8, 8, 8)
    assert similarity_and_distance(similarity) < -0.5


@pytest.mark.any_backend
def test_the_sign_of_the_correlation():
    places = np.mgrid[:3, :4].reshape(2, -1).T
    distance = np.linalg.norm(places[:, None] - places, axis=-1).reshape(3, 4, 3, 4)
    assert similarity_and_distance(-distance) == pytest.approx(-1)
    assert similarity_and_distance(distance**2) == pytest.approx(1)


@pytest.mark.any_backend
def test_similarity_is_the_cosine_of_learned_embeddings():
    model = perturb(tiny_vit(registers=1))
    table = array(model.get_layer("patch_encoder").positions.embedding)[0, 1:]
    table = table.astype("float64")
    expected = table[1] @ table[5] / np.sqrt(table[1] @ table[1] * (table[5] @ table[5]))
    assert position_similarity(model)[0, 1, 1, 2] == pytest.approx(expected, abs=1e-6)


@pytest.mark.any_backend
def test_similarity_of_rotary_positions_is_the_mean_cosine():
    model = tiny_vit(positions="rope_axial")
    layer = model.get_layer("block_0").attention.attention_positions()
    cos, sin = (table[1:, 0].astype("float64") for table in layer._tables)
    expected = (cos[1] * cos[5] + sin[1] * sin[5]).mean()
    assert position_similarity(model)[0, 1, 1, 2] == pytest.approx(expected, abs=1e-6)


@pytest.mark.any_backend
def test_relative_biases_are_those_of_the_attention():
    model = perturb(tiny_vit(positions="relative_bias"))
    layer = model.get_layer("block_1").attention.attention_positions()
    bias = array(layer.table)[layer._index].mean(axis=-1)[1:, 1:]
    np.testing.assert_allclose(
        position_similarity(model, 1).reshape(6, 6), bias / np.abs(bias).max(), atol=1e-6
    )


@pytest.mark.any_backend
def test_bad_positions():
    with pytest.raises(ValueError, match="this one has positions='none'"):
        position_similarity(tiny_vit(positions="none"))
    with pytest.raises(ValueError, match="The model has 2 blocks"):
        position_similarity(tiny_vit(), block=2)


@pytest.mark.any_backend
def test_filters_are_principal_components():
    model = perturb(tiny_vit())
    filters = patch_filters(model, 5)
    assert filters.shape == (5, 8, 8, 3)
    directions = filters.reshape(5, -1).astype("float64")
    np.testing.assert_allclose(directions @ directions.T, np.eye(5), atol=1e-5)
    kernel = array(model.weights_by_path()["patch_encoder/projection/kernel"])
    variances = (directions @ (kernel - kernel.mean(axis=1, keepdims=True))).var(axis=1)
    assert list(variances) == sorted(variances, reverse=True)
    assert len(patch_filters(model, 1000)) == 16
    with pytest.raises(ValueError, match="components must be 1 or more; received 0"):
        patch_filters(model, 0)
    with pytest.raises(ValueError, match="has a stem"):
        patch_filters(tiny_t2t())
    model.quantize("int8")
    with pytest.raises(ValueError, match="as it was before quantize"):
        patch_filters(model)
