import keras
import numpy as np
import pytest

from keras_vit.visualize import soft_split_maps, soft_split_weights
from tests.cases import array, perturb, random_images, tiny_t2t, tiny_vit, weights_of
from tests.formulas import below, layer_norm, softmax, unfold


def weights_by_hand(x, w):
    x = layer_norm(x, w["attention_norm/gamma"], w["attention_norm/beta"], 1e-5)
    query, key, _ = np.split(x @ w["qkv/kernel"], 3, axis=-1)
    return softmax(query @ key.transpose(0, 2, 1) / np.sqrt(x.shape[-1]))


# With a smaller last batch, JAX would compile everything twice.
BATCH, BATCH_SIZE = (2, 2) if keras.backend.backend() == "jax" else (3, 2)


@pytest.mark.slow_elsewhere
def test_the_weights_between_the_splits_are_those_of_the_formula():
    model = perturb(tiny_t2t(tokens="transformer"))
    images = random_images(model, batch=BATCH)
    before = array(model(images))
    stem = model.get_layer("stem")
    first = array(stem.token_layers[0](stem.splits[0](images))).reshape(BATCH, 8, 12, 6)
    inputs = unfold(images, 7, 4, 2), unfold(first, 3, 2, 1)
    maps = soft_split_maps(model, images)
    for step, grid in enumerate([(8, 12), (4, 6)]):
        weights = soft_split_weights(model, images, step, batch_size=BATCH_SIZE)
        assert weights.dtype == np.float32
        np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
        expected = weights_by_hand(
            inputs[step].astype("float64"),
            below(weights_of(stem), f"transformer_{step}/"),
        )
        np.testing.assert_allclose(weights, expected, rtol=0, atol=1e-5)
        received = expected.mean(axis=1).reshape(BATCH, *grid)
        np.testing.assert_allclose(maps[step], received, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(array(model(images)), before)


@pytest.mark.any_backend
def test_half_precision_keeps_rows_of_sum_1():
    model = perturb(tiny_t2t(tokens="transformer", dtype="mixed_bfloat16"))
    weights = soft_split_weights(model, random_images(model), step=1)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)


@pytest.mark.any_backend
def test_models_without_weights_between_splits():
    for make, message in (
        (tiny_t2t, "tokens='performer': Performers approximate"),
        (lambda: tiny_t2t(tokens="convolution"), "linear and have no attention"),
        (lambda: tiny_vit(name="plain"), "'plain' has no soft splits"),
    ):
        model = make()
        with pytest.raises(ValueError, match=message):
            soft_split_maps(model, random_images(model))
    model = tiny_t2t(tokens="transformer")
    with pytest.raises(ValueError, match=r"step must be 0 or 1, .*; received 2"):
        soft_split_weights(model, random_images(model), step=2)
