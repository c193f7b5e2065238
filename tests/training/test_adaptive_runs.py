"""Training of tokens that stop, and its runs: resumption, evaluation, refusals."""

import csv
import dataclasses
import json

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.data import evaluation_batches, open_source
from keras_vit.evaluation.accuracy import evaluate
from keras_vit.layers import TokenHalting
from keras_vit.models.halting import computed_tokens
from keras_vit.training import SGD, AdaptiveTokens, runs
from keras_vit.training import config as configs
from keras_vit.training.objectives import objective
from tests.cases import array, random_images
from tests.layers.test_token_halting import model_of
from tests.training.interruptions import (
    kill_at_first_checkpoint,
    train_to_next_checkpoint,
)
from tests.training.test_runs import assert_same_state

SETTINGS = [
    "model.arguments.input_shape=(8, 8, 1)",
    "model.arguments.patch_size=4",
    "model.arguments.hidden_dim=16",
    "model.arguments.num_layers=2",
    "model.arguments.mlp_dim=16",
    "model.arguments.dropout_rate=0.1",
    "adaptive.ponder_weight=0.05",
    "adaptive.target_depth=1",
    "adaptive.scale=5",
    "adaptive.center=0",
    "augmentation.pad_and_crop=1",
    "optimization.ema=0.9",
    "steps=4",
    "batch_size=16",
    "checkpoint_steps=2",
    "jit_compile=False",
]


@pytest.fixture(scope="module")
def config():
    return configs.override(configs.load("digits_vit"), SETTINGS)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """Train a run without interruption."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    runs.train(config, directory)
    return directory


def test_loss():
    backbone = model_of(classifier_activation=None)
    model = AdaptiveTokens(backbone, 0.3, 0.2, target_depth=2.0)
    model.compile(SGD(0.1), keras.losses.SparseCategoricalCrossentropy(True))
    images, labels = random_images(backbone), np.array([1, 3])
    found = {name: array(x) for name, x in model(images).items()}
    logits = array(backbone(images))
    np.testing.assert_allclose(found["predictions"], logits, atol=1e-5)
    likelihood = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    loss = -np.log(likelihood[[0, 1], labels]).mean() + 0.3 * found["ponder"].mean()
    means = np.maximum((found["scores"] * found["active"]).mean(axis=(0, 2)), 1e-12)
    prior = np.exp(-0.5 * (np.array([1, 2, 3]) - 2) ** 2)
    prior /= prior.sum()
    loss += 0.2 * (prior * np.log(prior / (means / means.sum()))).sum()
    results = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert results["loss"] == pytest.approx(loss, rel=1e-4)
    assert results["depth"] == pytest.approx(found["active"].sum(axis=1).mean(), rel=1e-5)


def test_weights_of_images():
    backbone = model_of(classifier_activation=None)
    model = AdaptiveTokens(backbone, 0.3, 0.2, target_depth=2.0)
    for _ in range(2):  # The second time, Keras must forget the metrics of the first.
        model.compile(
            SGD(0.1),
            keras.losses.SparseCategoricalCrossentropy(True),
            metrics=[keras.metrics.SparseCategoricalAccuracy("plain")],
            weighted_metrics=[keras.metrics.SparseCategoricalAccuracy("weighted")],
        )
        assert [m.name for m in model.metrics if m.name in ("plain", "weighted")] == [
            "plain",
            "weighted",
        ]
    images = random_images(backbone)
    labels = array(model(images)["predictions"]).argmax(axis=-1)
    expected = model.evaluate(images, labels, verbose=0, return_dict=True)
    # Padding of weight 0 and a wrong label, and larger weights that make up for it.
    padded = np.concatenate([images, np.zeros_like(images)])
    results = model.evaluate(
        padded,
        np.concatenate([labels, (labels + 1) % 5]),
        sample_weight=np.array([2.0, 2.0, 0.0, 0.0]),
        verbose=0,
        return_dict=True,
    )
    assert results.pop("plain") < 1 == expected.pop("plain")
    assert results == pytest.approx(expected, rel=1e-4)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "arguments",
    [
        {"loss": None},
        {"loss": "sparse_categorical_crossentropy"},
        {"loss": keras.losses.CategoricalCrossentropy(), "metrics": ["accuracy"]},
    ],
)
def test_names_of_losses_and_metrics_are_refused(arguments):
    model = AdaptiveTokens(model_of(classifier_activation=None))
    with pytest.raises(ValueError, match="Pass instances"):
        model.compile(SGD(0.1), **arguments)


def test_tokens_learn_to_stop_earlier():
    backbone = model_of(classifier_activation=None)
    model = AdaptiveTokens(backbone, 1.0, 0.0)
    model.compile(SGD(0.05), keras.losses.SparseCategoricalCrossentropy(True))
    images, labels = random_images(backbone, batch=8), np.arange(8) % 5
    before = model.evaluate(images, labels, verbose=0, return_dict=True)["depth"]
    model.fit(images, labels, epochs=10, verbose=0)
    after = model.evaluate(images, labels, verbose=0, return_dict=True)["depth"]
    assert after < before - 0.1


@pytest.mark.any_backend
def test_round_trip_and_backbones():
    model = AdaptiveTokens(model_of(), 0.3)
    again = AdaptiveTokens.from_config(json.loads(json.dumps(model.get_config())))
    assert again.get_config() == model.get_config()
    assert list(again.weights_by_path()) == list(model.backbone.weights_by_path())
    for reduction in (None, 1, TokenHalting(kept=[5, 4, 3])):
        with pytest.raises(ValueError, match="without `kept`"):
            AdaptiveTokens(model_of().with_token_reduction(reduction))


@pytest.mark.slow
def test_an_interrupted_run_ends_as_one_that_was_not(
    whole, config, tmp_path, monkeypatch
):
    train_to_next_checkpoint(config, tmp_path / "run", monkeypatch)
    runs.train(config, tmp_path / "run", resume=True)
    assert_same_state(tmp_path / "run", whole)


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(whole, config, tmp_path):
    directory = tmp_path / "killed"
    kill_at_first_checkpoint("pretrain", "digits_vit", SETTINGS, directory)
    runs.train(config, directory, resume=True)
    assert_same_state(directory, whole)


@pytest.mark.slow_elsewhere
def test_files_of_a_run(whole, config):
    model = keras_vit.load_checkpoint(whole / "last.keras")
    assert model.get_layer("block_1").last
    *_, last = csv.DictReader((whole / "log.csv").open())
    images = open_source("digits:validation")
    batches = evaluation_batches(images, model.preprocessor, 180)
    depth = computed_tokens(model, next(iter(batches))[0]).sum(axis=1).mean()
    assert float(last["val_depth"]) == pytest.approx(depth, rel=1e-4)
    assert 1 < depth < 2
    results = json.loads((whole / "results.json").read_text())
    weights = configs.Model(weights=str(whole / "best.keras"))
    evaluated = evaluate(dataclasses.replace(config, model=weights))
    assert results["test_accuracy"] == pytest.approx(evaluated["accuracy"])


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("objective=mae", "remove objective from the config"),
        ("data.labels=multi", "remove data.labels"),
        ("lora.rank=2", "lora.rank"),
        ("flexible.patch_sizes=(2, 4)", "remove flexible.patch_sizes"),
    ],
)
def test_refusals(config, setting, message):
    with pytest.raises(ValueError, match=message):
        objective(configs.override(config, [setting]), ["a", "b"])
