"""Image GPT: the palette, the network, sampling and files."""

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.layers import PixelEmbedding, PixelPalette
from keras_vit.models.image_gpt import sampled
from tests.cases import (
    array,
    mostly_slow_elsewhere,
    output_and_gradients,
    outputs,
    perturb,
    random_array,
)
from tests.formulas import attention, below, dense, layer_norm, mlp

TINY = {
    "input_shape": (3, 4, 2),
    "colors": 5,
    "hidden_dim": 8,
    "num_layers": 2,
    "num_heads": 2,
    "mlp_dim": 12,
}


def tiny(**overrides):
    return perturb(keras_vit.ImageGPT(**{**TINY, **overrides}))


def nearest(images, palette):
    pixels = images.reshape(len(images), -1, 1, images.shape[-1]).astype("float64")
    return np.square(pixels - palette).sum(-1).argmin(-1)


@pytest.mark.parametrize("causal", mostly_slow_elsewhere([True, False], True))
def test_formula(causal):
    model = tiny(causal=causal)
    images = random_array(3, 3, 4, 2)
    w = {path: array(x).astype("float64") for path, x in model.weights_by_path().items()}
    numbers = nearest(images, w["palette/palette"])
    np.testing.assert_array_equal(array(model.palette(images)), numbers)
    x = w["pixel_embedding/embedding"][numbers]
    if causal:
        start = np.broadcast_to(w["pixel_embedding/start_token"], (3, 1, 8))
        x = np.concatenate([start, x[:, :-1]], axis=1)
    x = x + w["pixel_embedding/positions/embedding"]
    hidden = np.where(np.tri(12) == 0, -np.inf if causal else 0.0, 0.0)
    for i in range(2):
        b = below(w, f"block_{i}/")
        normal = layer_norm(x, b["attention_norm/gamma"], b["attention_norm/beta"])
        x = x + attention(normal, below(b, "attention/"), 2, lambda query: hidden)
        normal = layer_norm(x, b["mlp_norm/gamma"], b["mlp_norm/beta"])
        x = x + mlp(normal, below(b, "mlp/"))
    x = layer_norm(x, w["norm/gamma"], w["norm/beta"])
    expected = dense(x, w, "classifier")
    assert model.output_shape == (None, 12, 5)
    np.testing.assert_allclose(outputs(model, images), expected, atol=1e-5)


def test_no_logit_depends_on_its_own_or_a_later_pixel():
    model = tiny()
    network = keras.Model(model.get_layer("dropout").output, model.output)
    tokens = random_array(1, 12, 8)
    upstream = np.zeros((1, 12, 5), "float32")
    upstream[:, 4] = random_array(5)
    _, (gradient,) = output_and_gradients(network, [tokens], upstream)
    # Token 4 is that of pixel 3.
    assert np.all(gradient[:, 5:] == 0)
    assert np.all(np.abs(gradient[:, :5]).max(axis=-1) > 0)
    images = random_array(1, 3, 4, 2)
    changed = images.reshape(1, 12, 2).copy()
    changed[:, 4:] *= -1
    changed = changed.reshape(images.shape)
    before, after = array(model(images)), array(model(changed))
    np.testing.assert_array_equal(after[:, :5], before[:, :5])
    assert not np.allclose(after[:, 5:], before[:, 5:])


@pytest.mark.any_backend
def test_the_palette_is_fitted():
    means = np.array([[-0.9, 0.3], [0.1, -0.5], [0.8, 0.7]])
    chosen = np.random.default_rng(0).integers(0, 3, (50, 3, 4))
    images = means[chosen] + random_array(50, 3, 4, 2, scale=0.02)
    layer = PixelPalette(3)
    layer.adapt(images)
    found = array(layer.palette)
    np.testing.assert_allclose(found, means, atol=0.01)
    assert np.all(np.diff(found.mean(axis=1)) > 0)
    assert np.array_equal(array(layer(images.astype("float32"))), chosen.reshape(50, 12))
    pixels = array(layer.pixels(layer(images.astype("float32"))))
    np.testing.assert_allclose(pixels, means[chosen.reshape(50, 12)], atol=0.01)
    again = PixelPalette(3)
    again.adapt(images)
    np.testing.assert_array_equal(array(again.palette), found)


@pytest.mark.any_backend
def test_as_many_colors_as_there_are():
    images = np.linspace(-1, 1, 6).reshape(1, 3, 2, 1)
    layer = PixelPalette(6)
    layer.adapt(np.concatenate([images, images[:, ::-1]]))
    np.testing.assert_allclose(array(layer.palette).ravel(), np.linspace(-1, 1, 6))
    with pytest.raises(ValueError, match="6 different colors, fewer than the 7"):
        PixelPalette(7).adapt(images)


@pytest.mark.any_backend
def test_the_first_palette_is_a_grid():
    layer = PixelPalette(8)
    layer.build((None, 2, 2, 3))
    corners = np.stack(np.meshgrid(*[[-1, 1]] * 3, indexing="ij"), -1).reshape(-1, 3)
    np.testing.assert_array_equal(array(layer.palette), corners)


@pytest.mark.any_backend
def test_the_embedding_of_pixels_in_a_config():
    layer = PixelEmbedding(5, 8, (2, 3), causal=False, dtype="mixed_bfloat16")
    numbers = np.array([[0, 1, 2, 3, 4, 5]])  # 5 is a masked pixel.
    tokens = layer(numbers)
    assert keras.backend.standardize_dtype(tokens.dtype) == "bfloat16"
    revived = PixelEmbedding.from_config(layer.get_config())
    assert revived.get_config() == layer.get_config()
    revived.build((None, 6))
    revived.set_weights(layer.get_weights())
    same = [array(keras.ops.cast(x, "float32")) for x in (tokens, revived(numbers))]
    np.testing.assert_array_equal(*same)


@pytest.mark.slow_elsewhere
def test_files(tmp_path):
    model = tiny(colors=6, causal=False, dropout_rate=0.1, activation="gelu")
    images = random_array(20, 3, 4, 2)
    model.fit_palette(images)
    model.save(tmp_path / "model.keras")
    loaded = keras_vit.load_checkpoint(tmp_path / "model.keras")
    assert loaded.get_config() == model.get_config()
    np.testing.assert_array_equal(array(loaded(images)), array(model(images)))
    palette = array(loaded.palette.palette)
    np.testing.assert_array_equal(palette, array(model.palette.palette))
    assert not loaded.palette.palette.trainable
    tokens = keras_vit.load_checkpoint(
        tmp_path / "model.keras", head="drop", pooling=None
    )
    pooled = keras_vit.load_checkpoint(tmp_path / "model.keras", include_top=False)
    np.testing.assert_allclose(
        array(pooled(images)), array(tokens(images)).mean(axis=1), atol=1e-6
    )
    (maps,) = model.features(images, blocks=[-1], as_grid=False)
    np.testing.assert_allclose(array(maps), array(tokens(images)), atol=1e-5)
    larger = keras_vit.load_checkpoint(tmp_path / "model.keras", input_shape=(6, 8, 2))
    before, after = (
        array(m.get_layer("pixel_embedding").positions.embedding) for m in (model, larger)
    )
    expected = keras_vit.layers.resize_grid(before.reshape(3, 4, -1), (6, 8), "google")
    np.testing.assert_allclose(after[0], expected.reshape(48, -1), atol=1e-6)


@pytest.mark.any_backend
def test_half_precision():
    half, full = tiny(dtype="mixed_bfloat16"), tiny()
    full.set_weights(half.get_weights())
    images = random_array(2, 3, 4, 2)
    assert half.get_layer("block_0").output.dtype == "bfloat16"
    logits = half(images)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    assert 0 < np.abs(array(logits) - array(full(images))).max() < 0.1
    numbers = [array(model.palette(images)) for model in (half, full)]
    np.testing.assert_array_equal(*numbers)


@pytest.mark.any_backend
def test_generate():
    model = tiny()
    images = random_array(3, 3, 4, 2)
    palette = array(model.palette.palette)
    numbers = nearest(images, palette)
    pictures = model.generate(images, known=5, seed=1)
    assert pictures.shape == (3, 3, 4, 2)
    found = nearest(pictures, palette)
    np.testing.assert_array_equal(found[:, :5], numbers[:, :5])
    np.testing.assert_array_equal(pictures, model.generate(images, known=5, seed=1))
    assert not np.array_equal(pictures, model.generate(images, known=5, seed=2))
    # Without noise, every pixel is the likeliest after those before it.
    greedy = model.generate(images, known=0, temperature=0)
    logits = array(model(greedy))
    np.testing.assert_array_equal(nearest(greedy, palette), logits.argmax(-1))


@pytest.mark.any_backend
def test_samples_have_the_probabilities_of_the_softmax():
    logits = np.log(np.array([0.1, 0.6, 0.3]))
    rows = np.broadcast_to(logits, (20_000, 3))
    numbers = sampled(rows, 1.0, np.random.default_rng(0))
    shares = np.bincount(numbers) / len(numbers)
    np.testing.assert_allclose(shares, [0.1, 0.6, 0.3], atol=0.015)
    cold = np.bincount(sampled(rows, 0.5, np.random.default_rng(0))) / len(numbers)
    expected = np.array([0.01, 0.36, 0.09]) / 0.46
    np.testing.assert_allclose(cold, expected, atol=0.015)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"colors": 1}, "colors must be an int from 2 to 65536; received 1"),
        ({"num_heads": 3}, "num_heads=3 does not divide hidden_dim=8"),
        ({"num_layers": 0}, "num_layers must be a positive int"),
        ({"pooling": "token"}, "pooling must be 'gap' or None; received 'token'"),
        ({"input_shape": (224, 224, 3)}, "has 50176 tokens; at most 4096"),
        ({"classes": 10}, "ImageGPT has no argument 'classes': .*keras-vit probe"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_vit.ImageGPT(**{**TINY, **arguments})


@pytest.mark.any_backend
def test_generation_out_of_range():
    images = random_array(1, 3, 4, 2)
    with pytest.raises(ValueError, match="known must be an int from 0 to 12"):
        tiny().generate(images, known=13)
    with pytest.raises(ValueError, match="temperature must be a number"):
        tiny().generate(images, known=1, temperature=-1)
    with pytest.raises(ValueError, match="needs a model with causal=True"):
        tiny(causal=False).generate(images, known=1)
