"""Optimizer, loss and metrics that a run compiles, by the settings of its config."""

import types

import numpy as np
import pytest

from keras_vit.training import compilation as compiling
from keras_vit.training import config as configs
from keras_vit.training import runs
from keras_vit.training.callbacks import RunCallback
from keras_vit.training.objectives import objective
from tests.cases import array, tiny_bit

pytestmark = pytest.mark.any_backend


def settings(*changes):
    small = [
        "epochs=3",
        "batch_size=96",
        "model.arguments.input_shape=(8, 8, 1)",
        "model.arguments.patch_size=4",
        "model.arguments.hidden_dim=8",
        "model.arguments.mlp_dim=8",
        "model.arguments.num_heads=2",
        "model.arguments.num_layers=1",
    ]
    changes = [f"optimization.{change}" for change in changes]
    return configs.override(configs.load("digits_vit"), [*small, *changes])


def test_the_optimizer():
    plan = runs.make_plan(
        settings(
            "learning_rate=0.01",
            "schedule=linear",
            "warmup_steps=0.25",
            "warmup_start=0.002",
            "final_learning_rate=0.001",
            "cooldown_steps=2",
            "clip_norm=0.5",
            "accumulation_steps=3",
            "beta_1=0.8",
            "beta_2=0.9",
            "ema=0.7",
        )
    )
    model = plan.objective.build()
    compiling.compile(model, plan)
    config = model.optimizer.get_config()
    updates = plan.steps // 3
    assert config["learning_rate"]["config"] == {
        "peak": 0.01,
        "steps": updates,
        "decay": "linear",
        "warmup_steps": round(updates / 4),
        "start": 0.002,
        "final": 0.001,
        "cooldown_steps": 2,
        "timescale": 10_000,
    }
    expected = {
        "global_clipnorm": 0.5,
        "gradient_accumulation_steps": 3,
        "beta_1": 0.8,
        "beta_2": 0.9,
        "ema_decay": 0.7,
    }
    assert {name: config[name] for name in expected} == expected


def optimizer(*changes):
    plan = runs.make_plan(settings(*changes))
    model = plan.objective.build()
    compiling.compile(model, plan)
    return model.optimizer


def test_other_optimizers():
    shared = "ema=0.7", "accumulation_steps=3", "weight_decay=0.1"
    own = "beta_1=0.8", "beta_2=0.9", "momentum=0.7"
    betas = {"beta_1": 0.8, "beta_2": 0.9}
    expected = {
        "adamw": betas,
        "adam": betas,
        "lion": betas,
        "lamb": betas,
        "sgd": {"momentum": 0.7},
        "muon": {"momentum": 0.7, "adam_beta_1": 0.8, "adam_beta_2": 0.9},
    }
    for name, arguments in expected.items():
        config = optimizer(f"optimizer={name}", *shared, *own).get_config()
        assert {key: config[key] for key in arguments} == arguments
        assert (config["ema_decay"], config["gradient_accumulation_steps"]) == (0.7, 3)
        assert {row["weight_decay"] for row in config["parameters"]} == {0.0, 0.1}
    with pytest.raises(ValueError, match="'rmsprop'; choose one of 'adamw', 'adam'"):
        optimizer("optimizer=rmsprop")
    with pytest.raises(ValueError, match="scaled_decay=False requires decoupled"):
        optimizer("optimizer=lamb", "scaled_decay=False")


def test_muon_requires_blocks():
    model = tiny_bit()
    with pytest.raises(ValueError, match=r"has none\. Use 'adamw'"):
        compiling.make_optimizer(model, settings("optimizer=muon").optimization, 0.1)


def compilation(*changes):
    names = [f"class {i}" for i in range(11)]
    return objective(settings(*changes), names).compilation()


def test_the_losses_smooth_labels():
    logits, labels = np.linspace(-2, 3, 11)[None].astype("float32"), np.eye(11)[[3]]
    softmax = compilation("loss=softmax", "label_smoothing=0.2")["loss"]
    log = logits - np.log(np.exp(logits).sum())
    smooth = 0.8 * labels + 0.2 / 11
    assert float(softmax(labels, logits)) == pytest.approx(-np.sum(smooth * log), 1e-5)
    sigmoid = compilation("loss=sigmoid", "label_smoothing=0.2")["loss"]
    smooth = 0.8 * labels + 0.1
    terms = np.logaddexp(0.0, logits) - smooth * logits
    assert float(sigmoid(labels, logits)) == pytest.approx(np.sum(terms), 1e-5)


@pytest.mark.parametrize("classes", [1, 2])
def test_the_loss_of_several_classes_smooths_labels(classes):
    config = settings("label_smoothing=0.2")
    config = configs.override(config, ["data.labels=multi"])
    loss = objective(config, ["furry", "small"][:classes]).compilation()["loss"]
    labels = np.array([[1, 1], [0, 1]], "float32")[:, :classes]
    logits = np.array([[0.5, -1], [2, 3]], "float32")[:, :classes]
    terms = np.logaddexp(0.0, logits) - (0.8 * labels + 0.1) * logits
    assert float(loss(labels, logits)) == pytest.approx(terms.sum(axis=1).mean(), 1e-5)


def test_label_smoothing_out_of_range():
    for kind in ("single", "multi"):
        config = configs.override(settings("label_smoothing=1"), [f"data.labels={kind}"])
        with pytest.raises(ValueError, match=r"at least 0 and below 1; received 1\.0"):
            objective(config, ["a", "b"]).compilation()
    settled = ["data.labels=regression", "data.scale=((0.0, 1.0),)"]
    config = configs.override(settings("label_smoothing=0.1"), settled)
    with pytest.raises(ValueError, match=r"label_smoothing=0\.1 requires classes"):
        objective(config, ["height"]).compilation()


def test_top5_counts_five():
    accuracy, top5 = compilation()["weighted_metrics"]
    logits = np.tile(np.arange(11, dtype="float32"), (11, 1))
    accuracy.update_state(np.eye(11, dtype="float32"), logits)
    top5.update_state(np.eye(11, dtype="float32"), logits)
    assert array(accuracy.result()) == pytest.approx(1 / 11)
    assert array(top5.result()) == pytest.approx(5 / 11)


def test_numbers_of_updates():
    def schedule(value):
        plan = runs.make_plan(settings(f"warmup_steps={value}"))
        model = plan.objective.build()
        compiling.compile(model, plan)
        return model.optimizer.get_config()["learning_rate"]["config"]["warmup_steps"]

    assert [schedule(value) for value in (2, 2.0, "1e1")] == [2, 2, 10]
    with pytest.raises(ValueError, match=r"must be a fraction.*received 1\.5"):
        schedule(1.5)


def test_one_batch_with_a_large_loss_does_not_stop_a_run():
    callback = RunCallback.__new__(RunCallback)
    callback.begun, callback.history, callback.step = {}, [], 0
    callback.failure, callback.largest_loss = None, 10.0
    callback.plan = types.SimpleNamespace(interval=100)
    callback._described_failure = lambda loss, before: f"{loss} after {before}"

    def failure(batch, loss):
        callback.set_model(types.SimpleNamespace(stop_training=False))
        callback.failure = None
        callback.on_train_batch_end(batch, {"loss": loss})
        assert callback.model.stop_training == (callback.failure is not None)
        return callback.failure

    assert failure(0, 50.0) is None
    assert failure(18, 50.0) is None
    assert failure(19, 9.0) is None
    assert failure(19, 50.0) is not None
    assert failure(0, float("nan")) is not None
    callback.plan.interval = 1
    assert failure(0, 50.0) is not None
