"""Convolutional tokenizer and sequence pooling."""

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.layers import ConvTokenizer, SequencePooling
from tests.cases import array, perturb, tiny_vit


def convolve(images, kernel):
    """Return the convolution with zeros around the images, then ReLU."""
    size = kernel.shape[0] // 2
    padded = np.pad(images, ((0, 0), (size, size), (size, size), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], (1, 2))
    return np.maximum(np.einsum("bhwcij,ijco->bhwo", windows, kernel), 0)


def max_pool(x):
    """Return the maxima of windows of 3x3 around every second position."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    return windows.max(axis=(-1, -2))[:, ::2, ::2]


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_the_tokenizer_equals_the_formula(kernel_size):
    images = np.random.default_rng(0).normal(size=(2, 9, 12, 3)).astype("float32")
    stem = ConvTokenizer((5, 7), kernel_size)
    found = array(stem(images))
    assert found.shape == stem.compute_output_shape(images.shape) == (2, 3, 3, 7)
    expected = images
    for kernel in stem.weights:
        expected = max_pool(convolve(expected, array(kernel)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_sequence_pooling_equals_the_formula():
    generator = np.random.default_rng(0)
    tokens = generator.normal(size=(2, 6, 4)).astype("float32")
    pooling = SequencePooling(num_prefix_tokens=1)
    np.testing.assert_allclose(array(pooling(tokens)), tokens[:, 1:].mean(1), atol=1e-6)
    kernel = generator.normal(size=(4, 1)).astype("float32")
    pooling.set_weights([kernel])
    scores = np.exp(tokens[:, 1:] @ kernel)
    weights = scores / scores.sum(axis=1, keepdims=True)
    expected = (weights * tokens[:, 1:]).sum(axis=1)
    np.testing.assert_allclose(array(pooling(tokens)), expected, rtol=1e-5, atol=1e-6)
    sizes = np.array([[1, 2, 1, 3, 1, 1], [1, 1, 1, 1, 4, 1]], "float32")
    weights_of_sizes = sizes[:, 1:, None] * scores
    weights_of_sizes /= weights_of_sizes.sum(axis=1, keepdims=True)
    expected = (weights_of_sizes * tokens[:, 1:]).sum(axis=1)
    found = array(pooling(tokens, sizes))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    found = array(pooling.attention_weights(tokens))
    np.testing.assert_allclose(found, weights[:, None, None, :, 0], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filters": ()}, r"filters must hold a positive int.*\(64, 128\)"),
        ({"filters": 64}, "filters must hold.*64"),
        ({"filters": (64, 0)}, "filters must hold"),
        ({"filters": (64,), "kernel_size": 2}, "kernel_size must be.*odd.*2"),
    ],
)
@pytest.mark.any_backend
def test_impossible_tokenizers(arguments, message):
    with pytest.raises(ValueError, match=message):
        ConvTokenizer(**arguments)


def compact():
    """Return a small Compact Convolutional Transformer, its weights perturbed."""
    return perturb(
        tiny_vit(
            input_shape=(16, 24, 3),
            stem=ConvTokenizer((8, 12)),
            patch_size=1,
            pooling="sequence",
        )
    )


@pytest.mark.any_backend
def test_a_compact_transformer_saves_and_shows_its_weights(tmp_path):
    model = compact()
    assert "stem/conv_1/kernel" in model.weights_by_path()
    images = np.random.default_rng(0).normal(size=(2, 16, 24, 3)).astype("float32")
    expected = array(model(images))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(again(images)), expected)
    shares = keras_vit.visualize.pooling_weights(model, images)
    assert shares.shape == (2, 1, 4, 6)
    np.testing.assert_allclose(shares.sum(axis=(1, 2, 3)), 1, rtol=1e-5)
    rollout = keras_vit.visualize.attention_rollout(model, images)
    np.testing.assert_allclose(rollout.sum(axis=(1, 2)), 1, rtol=1e-5)
