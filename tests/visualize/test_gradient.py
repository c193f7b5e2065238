import keras
import numpy as np
import pytest

from keras_vit.layers import (
    GlobalAveragePooling,
    TokenAndAveragePooling,
    TokenPooling,
)
from keras_vit.visualize import gradient, gradient_attention
from tests import formulas
from tests.cases import (
    array,
    mostly_slow_elsewhere,
    perturb,
    random_array,
    random_images,
    tiny_t2t,
    tiny_vit,
    weights_of,
)


def head_weights(x, w, offset):
    """Return the attention weights of both heads plus an offset, and the values."""
    qkv = formulas.dense(x, w, "qkv").reshape(len(x), 3, 2, -1)
    query, key, value = qkv[:, 0], qkv[:, 1], qkv[:, 2]
    logits = np.einsum("ikd,jkd->kij", query, key) / np.sqrt(query.shape[-1])
    return formulas.softmax(logits) + offset, value


LAYERS = ("block_0", "block_1", "norm", "classifier")


def replay(weights, pooling, tokens, offsets):
    """Return the logits and attention weights of one image from its first tokens."""
    x, every = tokens, []
    for index, offset in enumerate(offsets):
        w = weights[f"block_{index}"]
        y = formulas.layer_norm(x, w["attention_norm/gamma"], w["attention_norm/beta"])
        inside = formulas.below(w, "attention/")
        attention, value = head_weights(y, inside, offset)
        mixed = np.einsum("kij,jkd->ikd", attention, value).reshape(x.shape)
        x = x + formulas.dense(mixed, inside, "projection")
        y = formulas.layer_norm(x, w["mlp_norm/gamma"], w["mlp_norm/beta"])
        x = x + formulas.mlp(y, formulas.below(w, "mlp/"))
        every.append(attention)
    x = formulas.layer_norm(x, weights["norm"]["gamma"], weights["norm"]["beta"])
    pooled = x[0] if pooling == "token" else x.mean(axis=0)
    kernel, bias = weights["classifier"]["kernel"], weights["classifier"]["bias"]
    return pooled @ kernel + bias, every


def relevance(model, tokens, chosen):
    """Return the matrix of relevance, with gradients from finite differences."""
    offsets = np.zeros((2, 2, len(tokens), len(tokens)))
    own = {name: weights_of(model.get_layer(name)) for name in LAYERS}
    pooling = model.get_config()["pooling"]
    _, weights = replay(own, pooling, tokens, offsets)
    gradient, step = np.zeros_like(offsets), 1e-4
    for place in np.ndindex(offsets.shape):
        for sign in (1, -1):
            offsets[place] = sign * step
            logits, _ = replay(own, pooling, tokens, offsets)
            gradient[place] += sign * logits[chosen] / (2 * step)
        offsets[place] = 0
    total = np.eye(len(tokens))
    for block_weights, block_gradient in zip(weights, gradient, strict=True):
        total = total + np.maximum(block_weights * block_gradient, 0).mean(0) @ total
    return total - np.eye(len(tokens))


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("pooling", mostly_slow_elsewhere(["token", "gap"], "token"))
def test_relevance_is_that_of_finite_differences(pooling):
    model = perturb(tiny_vit(pooling=pooling))
    images = random_images(model, batch=3)
    maps = gradient_attention(model, images, classes=[4, 0, 2], batch_size=2)
    assert maps.shape == (3, 2, 3)
    first = keras.Model(model.input, model.get_layer("block_0").input)
    tokens = array(first(images)).astype("float64")
    for index, chosen in enumerate([4, 0, 2]):
        matrix = relevance(model, tokens[index], chosen)
        row = matrix[0, 1:] if pooling == "token" else matrix.mean(axis=0)
        np.testing.assert_allclose(maps[index].ravel(), row, rtol=1e-3, atol=1e-6)


@pytest.mark.any_backend
def test_relevance_for_tokens_that_are_not_pooled():
    """The last block has no gradient for a class token that is not pooled."""
    model = perturb(tiny_vit(num_layers=1, pooling="gap", class_token=True))
    images = random_images(model)
    maps = gradient_attention(model, images, [0, 1])
    assert (maps.max(axis=(1, 2)) > 0).all()


@pytest.mark.any_backend
def test_rows_of_the_tokens_that_are_pooled():
    matrix = random_array(1, 5, 5)
    mean = matrix[:, 2:].mean(axis=1)
    for pooling, expected in (
        (TokenPooling(1), matrix[:, 1]),
        (GlobalAveragePooling(2), mean),
        (TokenAndAveragePooling(2), (matrix[:, 0] + mean) / 2),
    ):
        np.testing.assert_allclose(gradient._pooled_rows(pooling, matrix, 2), expected)


@pytest.mark.any_backend
def test_relevance_of_both_tokens_of_a_distilled_model():
    model = perturb(tiny_vit(num_layers=1, distillation_token=True))
    images = random_images(model)
    found = gradient_attention(model, images, [0, 1])
    model.get_layer("distillation_classifier").kernel.assign(
        0 * model.get_layer("distillation_classifier").kernel
    )
    # Now the logits rest on the class token alone, whose row counts half.
    assert np.abs(found - gradient_attention(model, images, [0, 1])).max() > 1e-5


@pytest.mark.slow
@pytest.mark.any_backend
def test_the_predicted_class_is_the_default():
    model = perturb(tiny_t2t())
    images = random_images(model, batch=3)
    before = array(model(images))
    maps = gradient_attention(model, images)
    predicted = before.argmax(axis=-1)
    np.testing.assert_allclose(maps, gradient_attention(model, images, predicted))
    np.testing.assert_array_equal(array(model(images)), before)


@pytest.mark.any_backend
def test_bad_arguments():
    model = tiny_vit()
    images = random_images(model)
    with pytest.raises(ValueError, match=r"classes=\[0, 5\]: .* classes 0 to 4"):
        gradient_attention(model, images, [0, 5])
    with pytest.raises(ValueError, match="2 integers, one for each image"):
        gradient_attention(model, images, [0])
    headless = tiny_vit(include_top=False)
    with pytest.raises(ValueError, match="include_top=False"):
        gradient_attention(headless, images)
