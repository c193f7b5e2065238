"""Runs with a teacher: resumption, saved students, exported teachers, errors."""

import dataclasses
import json
import warnings

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.data import open_source
from keras_vit.evaluation.accuracy import evaluate
from keras_vit.training import config as configs
from keras_vit.training import runs
from keras_vit.training.compilation import compile
from keras_vit.training.overview import overview
from keras_vit.training.starting_point import config_of
from tests.cases import array, perturb
from tests.training.test_runs import SETTINGS, assert_same_state, state

CLASSES = {"classes": 10, "class_names": [str(digit) for digit in range(10)]}


def network(**overrides):
    size = {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "mlp_dim": 16}
    arguments = {"input_shape": (24, 24, 1), "patch_size": 8, **size, **CLASSES}
    return perturb(keras_vit.ViT(**{**arguments, **overrides}))


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "teacher.keras"
    network().save(path)
    return path


@pytest.fixture(scope="module")
def config(teacher):
    settings = [
        "model.arguments.pooling=token",
        "model.arguments.distillation_token=True",
        "optimization.accumulation_steps=2",
        "optimization.label_smoothing=0.1",
        "data.sampling=None",
        "data.class_weights=balanced",
        "epochs=2",
        f"distillation.teacher={teacher}",
    ]
    return configs.override(configs.load("digits_vit"), [*SETTINGS, *settings])


def stopped_and_resumed(config, directory, monkeypatch):
    """Stop a run after its first checkpoint and start it again."""
    fit = runs._fit

    def stopped(plan, model, callback, first, last):
        fit(plan, model, callback, first, 1)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(runs, "_fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            runs.train(config, directory)
    runs.train(config, directory, resume=True)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """Train a run without interruption."""
    directory = tmp_path_factory.mktemp("distilled") / "run"
    runs.train(config, directory)
    return directory


@pytest.mark.slow
def test_a_stopped_run_ends_as_one_that_was_not(config, tmp_path, monkeypatch):
    config = configs.override(config, ["resolutions=((0.5, 8), (0.5, 16))"])
    runs.train(config, tmp_path / "whole")
    stopped_and_resumed(config, tmp_path / "stopped", monkeypatch)
    assert_same_state(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.slow_elsewhere
def test_the_student_of_a_run(whole):
    saved = keras_vit.load_checkpoint(whole)
    assert "distillation_classifier/kernel" in saved.weights_by_path()
    # Neither the student nor the state of the run has the teacher.
    shapes = {values.shape for values in state(whole).values()}
    assert (9, 16) not in shapes  # The first kernel of the teacher.
    assert len(saved.weights) == len(saved.weights_by_path())
    results = json.loads((whole / "results.json").read_text())
    images, labels = (
        np.concatenate(part)
        for part in zip(
            *keras_vit.data.evaluation_batches(
                open_source("digits:test"), saved.preprocessor, 100
            ).map(lambda x, y, w: (x, y)),
            strict=True,
        )
    )
    hits = saved.predict(images, verbose=0).argmax(-1) == labels
    assert hits.mean() == pytest.approx(results["test_accuracy"], abs=1e-3)


@pytest.fixture(scope="module")
def exported(teacher, tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("tensorflow", reason="exports need TensorFlow")
    path = tmp_path_factory.mktemp("exported") / "teacher"
    keras_vit.export.saved_model(keras_vit.load_checkpoint(teacher), path, verbose=False)
    return path


@pytest.mark.slow
def test_teachers_of_every_kind_have_the_same_logits(teacher, exported, config, tmp_path):
    rescaling = keras.layers.Rescaling(1 / 127.5, -1.0)
    model = keras_vit.load_checkpoint(teacher, classifier_activation=None)
    plain = keras.Sequential([keras.Input((24, 24, 1)), rescaling, model])
    plain.add(keras.layers.Activation("softmax"))
    plain.save(tmp_path / "plain.keras")
    logits = []
    for path in (teacher, tmp_path / "plain.keras", exported):
        changed = configs.override(config, [f"distillation.teacher={path}"])
        plan = runs.make_plan(changed)
        model = plan.objective.build()
        images, labels, _ = next(iter(runs.training_data(plan, model)))
        found = array(model._teacher_logits(keras.ops.convert_to_tensor(images), labels))
        logits.append(found - found.mean(-1, keepdims=True))
    compile(model, plan)
    assert "teacher, hard labels of weight 0.5" in " ".join(overview(plan, model).split())
    for other in logits[1:]:
        np.testing.assert_allclose(other, logits[0], atol=1e-3)


@pytest.mark.slow
def test_a_run_with_an_exported_teacher(config, exported, tmp_path, monkeypatch):
    changed = configs.override(config, [f"distillation.teacher={exported}"])
    runs.train(changed, tmp_path / "whole")
    stopped_and_resumed(changed, tmp_path / "stopped", monkeypatch)
    assert_same_state(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["optimization.loss=sigmoid"], "requires optimization.loss='softmax'"),
        (["objective=mae"], "requires objective='classification'"),
        (["flexible.patch_sizes=(4, 8)"], "not possible with flexible.patch_sizes"),
        (["distillation.kind=middle"], "Unknown kind 'middle'"),
        (["distillation.teacher=nowhere.keras"], "nowhere.keras"),
        (["distillation.teacher=a.onnx"], "must be a SavedModel"),
        (["distillation.warm_start=True"], "requires model.weights"),
    ],
)
def test_bad_settings(config, tmp_path, settings, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        runs.train(configs.override(config, settings), tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"class_names": None, "classes": 9}, "has 10 classes, .*teacher.keras' 9"),
        ({"class_names": [*"1023456789"]}, "label 0 is '0' in .*and '1' in distillation"),
        ({"include_top": False}, "has no classifier"),
        ({"input_shape": (24, 24, 3)}, None),
    ],
)
def test_other_teachers(config, tmp_path, overrides, message):
    path = tmp_path / "teacher.keras"
    network(**overrides).save(path)
    plan = configs.override(config, [f"distillation.teacher={path}"])
    if message is None:
        runs.make_plan(plan).objective.build()
        return
    with pytest.raises(ValueError, match=message):
        runs.make_plan(plan)


def _cold(config, directory):
    """Return the config of a student from a checkpoint without its token."""
    network(input_shape=(16, 16, 1), patch_size=4).save(directory / "old.keras")
    model = configs.Model(
        weights=str(directory / "old.keras"),
        arguments={"distillation_token": True, "head": "keep"},
    )
    return dataclasses.replace(config, model=model)


def test_a_warm_start(config, tmp_path):
    cold = _cold(config, tmp_path)
    with pytest.raises(ValueError, match="distillation_token"):
        runs.make_plan(cold).objective.build()
    warm = configs.override(cold, ["distillation.warm_start=True"])
    weights = runs.make_plan(warm).objective.build().weights_by_path()
    old = keras_vit.load_checkpoint(tmp_path / "old.keras").weights_by_path()
    for name in ("class_token", "distillation_token"):
        np.testing.assert_array_equal(
            array(weights[f"patch_encoder/{name}"]),
            array(old["patch_encoder/class_token"]),
        )


@pytest.mark.slow
def test_another_command_needs_no_teacher(config, tmp_path):
    settings = ["distillation.warm_start=True", "epochs=1"]
    warm = configs.override(_cold(config, tmp_path), settings)
    runs.train(warm, tmp_path / "run")
    # Neither the teacher nor the checkpoint is loaded.
    assert evaluate(config_of(str(tmp_path / "run"), warm))["accuracy"] > 0
