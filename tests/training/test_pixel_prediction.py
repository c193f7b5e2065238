"""Prediction of pixels: losses, masks, and runs."""

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.evaluation.features import feature_network
from keras_vit.training import PixelPrediction, runs
from keras_vit.training import config as configs
from tests.cases import array, perturb, random_array, tiny_vit
from tests.models.test_image_gpt import tiny
from tests.training.interruptions import train_to_next_checkpoint
from tests.training.test_runs import assert_same_state

SETTINGS = [
    "steps=4",
    "checkpoint_steps=2",
    "batch_size=16",
    "jit_compile=False",
    "model.arguments.hidden_dim=16",
    "model.arguments.mlp_dim=24",
    "model.arguments.num_layers=2",
    "model.arguments.num_heads=2",
    "model.arguments.dropout_rate=0.1",
    "data.test=None",
]


def log_softmax(logits):
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("causal", [True, False])
def test_loss_and_metrics(causal):
    backbone = tiny(causal=causal)
    model = PixelPrediction(backbone, ratio=0.25, seed=0)
    images, weights = random_array(3, 3, 4, 2), np.array([1.0, 0.0, 2.0])
    outputs = {name: array(value) for name, value in model(images).items()}
    logits, targets = outputs["predictions"].astype("float64"), outputs["targets"]
    assert targets.shape == ((3, 12) if causal else (3, 3))
    if causal:
        np.testing.assert_array_equal(targets, array(backbone.palette(images)))
        np.testing.assert_allclose(logits, array(backbone(images)), atol=1e-5)
    chosen = np.take_along_axis(log_softmax(logits), targets[..., None], -1)[..., 0]
    right = logits.argmax(-1) == targets
    model.compile("sgd")
    found = model.evaluate(images, sample_weight=weights, verbose=0, return_dict=True)
    expected = (-chosen.mean(1) * weights).mean()
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
    bits = np.average(-chosen.mean(1) / np.log(2), weights=weights)
    np.testing.assert_allclose(found["bits_per_dim"], bits, rtol=1e-5)
    accuracy = np.average(right.mean(1), weights=weights)
    np.testing.assert_allclose(found["accuracy"], accuracy, rtol=1e-5)


@pytest.mark.any_backend
def test_masked_pixels():
    backbone = tiny(causal=False)
    model = PixelPrediction(backbone, ratio=0.25, seed=0)
    layer = model.get_layer("mask")
    numbers = keras.ops.convert_to_tensor(np.arange(24).reshape(2, 12) % 5)
    masked, places = (array(x) for x in layer(numbers))
    for row, given, hidden in zip(masked, array(numbers), places, strict=True):
        assert sorted(np.flatnonzero(row == 5)) == sorted(hidden)
        assert np.array_equal(np.delete(row, hidden), np.delete(given, hidden))
    assert places.shape == (2, 3)
    again = array(layer(numbers)[1])
    np.testing.assert_array_equal(again, places)
    drawn = [array(layer(numbers, training=True)[1]) for _ in range(2)]
    assert not np.array_equal(*drawn)


@pytest.mark.any_backend
def test_masked_pixels_are_not_seen():
    model = perturb(PixelPrediction(tiny(causal=False), ratio=0.25, seed=0))
    images = random_array(1, 3, 4, 2)
    outputs = model(images)
    _, places = model.get_layer("mask")(model.backbone.palette(images))
    changed = images.reshape(1, 12, 2).copy()
    changed[0, array(places)[0]] *= -1
    after = model(changed.reshape(images.shape))
    assert not np.array_equal(array(after["targets"]), array(outputs["targets"]))
    np.testing.assert_array_equal(
        array(after["predictions"]), array(outputs["predictions"])
    )


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("causal", [True, False])
def test_gradients_reach_every_weight(causal):
    model = PixelPrediction(tiny(causal=causal, colors=3), ratio=0.5)
    model.compile(keras.optimizers.SGD(1.0), jit_compile=False)
    before = {path: array(w).copy() for path, w in model.weights_by_path().items()}
    model.train_on_batch(random_array(16, 3, 4, 2))
    after = model.weights_by_path()
    still = [path for path in after if np.array_equal(array(after[path]), before[path])]
    assert still == ["palette/palette"]


@pytest.mark.any_backend
def test_the_model_in_a_config():
    model = PixelPrediction(tiny(causal=False), ratio=0.25, seed=3, name="training")
    again = PixelPrediction.from_config(model.get_config())
    again.set_weights(model.get_weights())
    images = random_array(2, 3, 4, 2)
    for name, value in model(images).items():
        np.testing.assert_array_equal(array(again(images)[name]), array(value))


@pytest.mark.any_backend
def test_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match=r"keras_vit.ImageGPT with include_top=True"):
        PixelPrediction(tiny_vit())
    with pytest.raises(ValueError, match=r"keras_vit.ImageGPT with include_top=True"):
        PixelPrediction(tiny(include_top=False))
    for ratio in (0, 1.5, "half"):
        with pytest.raises(ValueError, match="ratio must be a number between 0 and 1"):
            PixelPrediction(tiny(causal=False), ratio=ratio)
    with pytest.raises(ValueError, match=r"ratio=0.01 of the 12 pixels of an image is 0"):
        PixelPrediction(tiny(causal=False), ratio=0.01)
    config = configs.override(configs.load("digits_mae"), ["objective=pixels"])
    with pytest.raises(ValueError, match=r"requires model.architecture='ImageGPT'"):
        runs.make_plan(config).objective.build()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Train a run without interruption."""
    directory = tmp_path_factory.mktemp("pixels") / "run"
    config = configs.override(configs.load("digits_igpt_masked"), SETTINGS)
    runs.train(config, directory)
    return config, directory


@pytest.mark.slow
def test_a_stopped_run_ends_as_one_that_was_not(whole, tmp_path, monkeypatch):
    config, directory = whole
    train_to_next_checkpoint(config, tmp_path / "run", monkeypatch)
    runs.train(config, tmp_path / "run")
    assert_same_state(tmp_path / "run", directory)


@pytest.mark.slow_elsewhere
def test_what_a_run_saves(whole):
    config, directory = whole
    model = keras_vit.load_checkpoint(directory / "best.keras")
    levels = 2 * np.arange(17) / 16 - 1  # The digits have these gray levels.
    np.testing.assert_allclose(array(model.palette.palette)[:, 0], levels, atol=1e-5)
    probed = configs.override(config, [f"model.weights={directory / 'best.keras'}"])
    images = random_array(2, 8, 8, 1)
    for block in (0, 1):
        features = feature_network(probed, block)(images)
        (tokens,) = model.features(images, blocks=[block], as_grid=False)
        expected = array(tokens).mean(axis=1)
        np.testing.assert_allclose(array(features), expected, atol=1e-5)
