"""Training runs: interruption, resumption and results."""

import csv
import dataclasses
import functools
import json
import re
import shutil

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.cli import command_line
from keras_vit.data import batch_ids, open_source
from keras_vit.evaluation.accuracy import evaluate
from keras_vit.training import compilation, dry_run, run_directory, runs
from keras_vit.training import config as configs
from keras_vit.training.callbacks import Interruptible, RunCallback, evaluated
from keras_vit.training.losses import SigmoidLoss
from keras_vit.training.phases import Phase, next_model
from tests.cases import array, random_images, tiny_vit
from tests.commands import run_command
from tests.training.interruptions import (
    kill_at_first_checkpoint,
    train_to_next_checkpoint,
)

# Settings with random numbers (dropout, stochastic depth) and state (EMA, optimizer).
SETTINGS = [
    "epochs=3",
    "checkpoint_steps=12",
    "batch_size=96",
    "jit_compile=False",  # XLA takes seconds to compile each model under TensorFlow.
    "optimization.ema=0.9",
    "model.arguments.input_shape=(16, 16, 1)",
    "model.arguments.patch_size=4",
    "model.arguments.hidden_dim=32",
    "model.arguments.mlp_dim=48",
    "model.arguments.num_layers=1",
    "model.arguments.dropout_rate=0.1",
    "model.arguments.stochastic_depth_rate=0.1",
    "augmentation.pad_and_crop=2",
    "augmentation.mixup=0.2",
    "data.sampling=balanced",
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


def state(directory):
    with np.load(directory / "state.npz") as arrays:
        return {name: arrays[name] for name in arrays if name != "progress"}


def assert_same_state(directory, other):
    ours, theirs = state(directory), state(other)
    assert set(ours) == set(theirs)
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name], err_msg=name)


@pytest.mark.slow_elsewhere
def test_what_a_run_leaves(whole, config):
    names = {path.name for path in whole.iterdir()}
    assert names == {
        ".lock",
        "best.keras",
        "classes.json",
        "config.json",
        "curves.png",
        "environment.json",
        "last.keras",
        "log.csv",
        "results.json",
        "state-previous.npz",
        "state.npz",
        "tensorboard",
    }
    again = configs.load(str(whole / "config.json"))
    assert configs.to_dict(again) == configs.to_dict(config)
    rows = (whole / "log.csv").read_text().splitlines()
    assert rows[0].startswith("step,accuracy,loss,learning_rate,seconds")
    assert [row.split(",")[0] for row in rows[1:]] == ["12", "24", "36"]
    results = json.loads((whole / "results.json").read_text())
    best = configs.Model(weights=str(whole / "best.keras"))
    tested = evaluate(dataclasses.replace(config, model=best))
    assert results["test_accuracy"] == pytest.approx(tested["accuracy"])
    assert results["test_loss"] == pytest.approx(tested["loss"], rel=1e-4)


@pytest.mark.slow_elsewhere
def test_the_averaged_weights_are_those_saved_and_evaluated(whole, config):
    # The loss takes logits, but the saved model ends in a softmax.
    model = keras_vit.load_checkpoint(whole / "last.keras", classifier_activation=None)
    plan = runs.make_plan(config)
    compilation.compile(model, plan)
    data = runs.evaluation_data(plan, "test", model)
    tested = model.evaluate(data, verbose=0, return_dict=True)
    results = json.loads((whole / "results.json").read_text())
    assert results["last"]["weights"] == "last.keras"
    assert tested["accuracy"] == pytest.approx(results["last"]["test_accuracy"])
    assert tested["loss"] == pytest.approx(results["last"]["test_loss"])
    data = runs.evaluation_data(plan, "validation", model)
    validated = model.evaluate(data, verbose=0, return_dict=True)
    *_, last = csv.DictReader((whole / "log.csv").open())
    assert validated["loss"] == pytest.approx(float(last["val_loss"]), rel=1e-4)
    kernel = array(model.weights_by_path()["block_0/mlp/expand/kernel"])
    # The state has the weight, its two moments and its average.
    values = [x for x in state(whole).values() if x.shape == kernel.shape]
    same = [np.array_equal(kernel, x) for x in values if x.any()]
    assert sum(same) == 1
    assert not same[0]


def test_the_directory_of_a_run_is_its_best_model(whole, tmp_path):
    directory = shutil.copytree(whole, tmp_path / "run")
    best = keras_vit.load_checkpoint(whole / "best.keras")
    bias = best.get_layer("classifier").bias
    bias.assign(bias + 1.0)  # The best model may be the last one.
    best.save(directory / "best.keras")
    loaded = keras_vit.load_checkpoint(directory)
    for weight, expected in zip(loaded.weights, best.weights, strict=True):
        np.testing.assert_array_equal(array(weight), array(expected))


def test_an_interrupted_run_ends_as_one_that_was_not(
    whole, config, tmp_path, monkeypatch
):
    directory = tmp_path / "run"
    train_to_next_checkpoint(config, directory, monkeypatch)
    assert not (directory / "results.json").exists()
    runs.train(config, directory, resume=True)
    assert_same_state(directory, whole)
    assert not list(directory.glob(".partial*"))


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(whole, config, tmp_path):
    directory = tmp_path / "killed"
    kill_at_first_checkpoint("pretrain", "digits_vit", SETTINGS, directory)
    assert not (directory / "results.json").exists()
    runs.train(config, directory, resume=True)
    assert_same_state(directory, whole)
    assert not list(directory.glob(".partial*"))


@pytest.mark.slow
@pytest.mark.any_backend
def test_a_damaged_state_is_made_up_for_by_the_one_before(
    whole, config, tmp_path, capsys
):
    directory = tmp_path / "run"
    shutil.copytree(whole, directory)
    with open(directory / "state.npz", "r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    runs.train(config, directory)
    printed = capsys.readouterr().out
    assert "Resumed at step 24." in printed
    assert "state.npz is damaged" in printed
    assert "the steps after step 24 are trained again" in printed
    assert_same_state(directory, whole)
    steps = [
        [row.split(",")[0] for row in (d / "log.csv").open()] for d in (directory, whole)
    ]
    assert steps[0] == steps[1]


@pytest.mark.slow
@pytest.mark.any_backend
def test_training_on(whole, config, tmp_path):
    """Check the remedy that the error for more epochs names."""
    settings = [f"model.weights={whole / 'last.keras'}", "model.arguments.head=keep"]
    longer = configs.override(config, [*settings, "epochs=1"])
    runs.train(longer, tmp_path / "run")
    before, after = (
        keras_vit.load_checkpoint(path / "last.keras").weights_by_path()
        for path in (whole, tmp_path / "run")
    )
    change = array(after["classifier/kernel"]) - array(before["classifier/kernel"])
    assert 0 < np.abs(change).max() < 0.1


@pytest.mark.any_backend
@pytest.mark.parametrize(("error", "times"), [(KeyboardInterrupt, 1), (MemoryError, 9)])
def test_errors_while_keras_waits_for_a_step(error, times, monkeypatch, tensorflow):
    """Check that no exception is lost where Keras swallows all of them."""
    model = tiny_vit()
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    data = tensorflow.data.Dataset.from_tensors(
        (random_images(model, batch=2), np.zeros(2, int))
    )
    convert, left = keras.src.backend.convert_to_numpy, []

    def interrupted(value):
        if left:
            raise left.pop()
        return convert(value)

    # Keras calls it while it waits for the results of a step.
    monkeypatch.setattr("keras.src.backend.convert_to_numpy", interrupted)
    for call in (
        lambda: model.fit(data, callbacks=[Interruptible()], verbose=0),
        lambda: evaluated(model, data),
    ):
        left[:] = [error] * times
        with pytest.raises(error):
            call()


@pytest.mark.slow
@pytest.mark.any_backend
def test_an_interrupted_run(tmp_path, monkeypatch, capsys):
    ended = RunCallback.on_train_batch_end

    def interrupted(callback, batch, logs=None):
        ended(callback, batch, logs)
        if callback.step >= 20:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunCallback, "on_train_batch_end", interrupted)
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    with pytest.raises(SystemExit) as exit_info:
        run_command(
            "pretrain", ["digits_vit", *settings, "--workdir", str(tmp_path / "run")]
        )
    assert exit_info.value.code == 130
    assert re.search(
        r"^interrupted at step 2\d; the same command resumes from the checkpoint of step "
        r"12$",
        capsys.readouterr().err,
        flags=re.MULTILINE,
    )


@pytest.mark.slow_elsewhere
def test_a_finished_run_is_left_as_it_is(whole, config):
    before = state(whole)
    runs.train(config, whole)
    after = state(whole)
    assert all(np.array_equal(before[name], after[name]) for name in before)


@pytest.mark.slow
def test_a_resumed_run_with_float16_and_averages(config, tmp_path, monkeypatch):
    scaled = configs.override(
        config,
        [
            "dtype=mixed_float16",
            "steps=6",
            "checkpoint_steps=2",
            "batch_size=8",
            "data.test=None",
        ],
    )
    runs.train(scaled, tmp_path / "whole")
    train_to_next_checkpoint(scaled, tmp_path / "stopped", monkeypatch)
    runs.train(scaled, tmp_path / "stopped")
    assert_same_state(tmp_path / "stopped", tmp_path / "whole")
    scales = [x for x in state(tmp_path / "whole").values() if x.shape == () and x > 1000]
    assert len(scales) == 1  # The loss scale is in the state.


@pytest.mark.any_backend
def test_the_results_are_of_the_best_checkpoint(whole, config, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(whole, directory)
    # Pretend that the first checkpoint was the best and had other weights.
    with np.load(directory / "state.npz") as arrays:
        contents = {name: arrays[name] for name in arrays}
    progress = json.loads(str(contents["progress"]))
    progress["history"][0]["val_accuracy"] = 1.0
    contents["progress"] = np.array(json.dumps(progress))
    np.savez(directory / "state.npz", **contents)
    best = keras_vit.load_checkpoint(directory / "best.keras")
    bias = best.weights_by_path()["classifier/bias"]
    bias.assign(np.arange(10.0))
    best.save(directory / "best.keras")
    results = runs.train(config, directory)
    assert (results["weights"], results["step"]) == ("best.keras", 12)
    assert (results["last"]["weights"], results["last"]["step"]) == ("last.keras", 36)
    for row, file in ((results, "best.keras"), (results["last"], "last.keras")):
        what = command_line.config_of(str(directory / file), command_line.UNSPECIFIED)
        evaluated = evaluate(what)
        assert row["test_accuracy"] == pytest.approx(evaluated["accuracy"])
        assert row["test_loss"] == pytest.approx(evaluated["loss"], rel=1e-4)
    assert results["test_loss"] > results["last"]["test_loss"] + 0.5
    assert json.loads((directory / "results.json").read_text()) == results


@pytest.mark.any_backend
def test_the_best_autoencoder_has_the_lowest_loss():
    objective = runs.make_plan(configs.load("digits_mae")).objective
    assert objective.watched == "val_loss"
    assert objective.better([2.0, 1.0]) == 1.0


@pytest.mark.any_backend
def test_directories_of_something_else(whole, config, tmp_path):
    other = configs.override(config, ["seed=1", "optimization.ema=0.5"])
    with pytest.raises(FileExistsError, match=r"optimization\.ema: 0\.9 there, 0\.5"):
        runs.train(other, whole)
    with pytest.raises(FileExistsError, match="leave --no-resume out"):
        runs.train(config, whole, resume=False)
    with pytest.raises(FileNotFoundError, match="no run in"):
        runs.train(config, tmp_path / "none", resume=True)
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="is not empty and holds no run"):
        runs.train(config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.slow
@pytest.mark.any_backend
def test_a_damaged_write_leaves_the_last_state(whole, config, tmp_path, monkeypatch):
    def full(*arguments, **values):
        raise OSError(28, "No space left on device")

    directory = tmp_path / "run"
    monkeypatch.setattr(run_directory, "_write_arrays", full)
    with pytest.raises(OSError, match="No space"):
        runs.train(config, directory)
    monkeypatch.undo()
    assert not (directory / "state.npz").exists()
    assert not list(directory.glob(".partial*"))
    runs.train(config, directory)
    assert_same_state(directory, whole)


@pytest.mark.any_backend
def test_an_exploding_loss_stops_the_run_and_names_its_batch(config, tmp_path):
    wild = configs.override(
        config,
        [
            "optimization.optimizer=sgd",
            "optimization.learning_rate=1e6",
            "optimization.clip_norm=None",
            "optimization.warmup_steps=0",
            "optimization.ema=None",
        ],
    )
    with pytest.raises(SystemExit, match="Last good checkpoint: none") as error:
        runs.train(wild, tmp_path / "run")
    # The steps that were executed together, counted from 1, and all of their images.
    found = re.search(
        r" (\d+)(?: to (\d+))?: training .*: (digits.*)\. L", str(error.value)
    )
    first, last, ids = found.groups()
    steps = range(int(first) - 1, int(last or first))
    draw = functools.partial(batch_ids, open_source("digits:train"), 96, wild.seed)
    batches = [draw(step, sampling="balanced") for step in steps]
    assert ids.split(", ") == [name for batch in batches for name in batch]


def test_the_sigmoid_loss():
    logits = np.array([[1.0, -2.0, 0.5]], "float32")
    labels = np.array([[0.0, 1.0, 0.0]], "float32")
    smooth = labels * 0.9 + 0.05
    p = 1 / (1 + np.exp(-logits.astype("float64")))
    expected = -np.sum(smooth * np.log(p) + (1 - smooth) * np.log(1 - p))
    loss = SigmoidLoss(label_smoothing=0.1)
    assert float(loss(labels, logits)) == pytest.approx(expected, rel=1e-5)


def test_binary_labels_of_mixed_images():
    labels = np.array([[0.3, 0.7, 0.0]], "float32")
    logits = np.array([[0.5, -1.0, 2.0]], "float32")
    loss = SigmoidLoss(0.1, binary_labels=True)
    expected = SigmoidLoss(0.1)(np.array([[1.0, 1.0, 0.0]], "float32"), logits)
    assert float(loss(labels, logits)) == pytest.approx(float(expected))
    assert SigmoidLoss.from_config(loss.get_config()).binary_labels


def test_steps_at_once_divide_an_interval(config):
    expected = 6 if keras.backend.backend() == "tensorflow" else 1
    assert runs.make_plan(config).steps_per_execution == expected
    prime = configs.override(config, ["checkpoint_steps=13"])
    assert runs.make_plan(prime).steps_per_execution == 1
    with pytest.raises(ValueError, match="steps_per_execution=5 must divide the 12"):
        runs.make_plan(configs.override(config, ["steps_per_execution=5"]))


def test_the_command(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match="Unknown key 'epoch'"):
        run_command(
            "pretrain",
            ["digits_vit", "--set", "epoch=1", "--workdir", str(tmp_path / "run")],
        )
    with pytest.raises(SystemExit, match="No config is called 'nothing'"):
        run_command("pretrain", ["nothing", "--workdir", str(tmp_path / "run")])
    with pytest.raises(SystemExit, match="batch_size=2000 is larger than the 1257"):
        run_command(
            "pretrain",
            [
                "digits_vit",
                "--set",
                "batch_size=2000",
                "--workdir",
                str(tmp_path / "run"),
            ],
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_growing_images(config, tmp_path, monkeypatch):
    """Check growing image sizes with an interruption after any checkpoint."""
    growing = configs.override(
        config,
        ["resolutions=((0.34, 8), (0.66, 16))", "augmentation.mixup=0"],
    )
    assert [(p.first, p.last, p.side) for p in runs.make_plan(growing).phases] == [
        (0, 1, 8),
        (1, 3, 16),
    ]
    sizes = []
    fit = runs._fit

    def watched(plan, model, *arguments):
        sizes.append(model.input_shape[1])
        return fit(plan, model, *arguments)

    monkeypatch.setattr(runs, "_fit", watched)
    runs.train(growing, tmp_path / "whole")
    assert sizes == [8, 16]
    directory = tmp_path / "stopped"
    for last in (1, 2):

        def stopped(plan, model, callback, first, end, last=last):
            fit(plan, model, callback, first, min(end, last))
            if end >= last:
                raise KeyboardInterrupt

        monkeypatch.setattr(runs, "_fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            runs.train(growing, directory)
    monkeypatch.setattr(runs, "_fit", fit)
    runs.train(growing, directory)
    assert_same_state(directory, tmp_path / "whole")
    model = keras_vit.load_checkpoint(tmp_path / "whole" / "last.keras")
    assert model.input_shape == (None, 16, 16, 1)


@pytest.mark.parametrize(
    ("resolutions", "message"),
    [
        ("((0.5, 8),)", "add up to 1"),
        ("((0.99, 8), (0.01, 16))", "rounds to none. Set a smaller checkpoint_steps"),
        ("((0.5, 8), (0.5, 16.0))", "ints above 0; received 16.0"),
    ],
)
def test_bad_resolutions(config, resolutions, message):
    with pytest.raises(ValueError, match=message):
        runs.make_plan(configs.override(config, [f"resolutions={resolutions}"]))


@pytest.mark.any_backend
def test_a_size_that_the_model_cannot_have_is_refused_first(config, tmp_path):
    config = configs.override(config, ["resolutions=((0.5, 8), (0.5, 15))"])
    message = r"images of 15x15 pixels do not fit the model\. .*"
    with pytest.raises(ValueError, match=message):
        runs.train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
    with pytest.raises(ValueError, match=message):
        dry_run.report(config)


@pytest.mark.any_backend
def test_a_grid_is_no_part_of_a_run(config):
    one, other = (
        configs.to_dict(dataclasses.replace(config, grid={"seed": seeds}))
        for seeds in ([0, 1], [0, 1, 2])
    )
    assert run_directory.changes(one, other) == []
    assert run_directory.same_results(one, other)


@pytest.mark.slow
@pytest.mark.any_backend
def test_the_optimizers_averages_grow_too(config):
    plan = runs.make_plan(configs.override(config, ["optimization.ema=0.9"]))
    model = plan.objective.build()
    compilation.compile(model, plan)
    batches = runs.training_data(plan, model)
    model.fit(batches, steps_per_epoch=plan.interval, verbose=0)
    grown = next_model(model, Phase(1, 3, side=24), plan)
    assert len(model.optimizer.variables) == len(grown.optimizer.variables)
    moved = 0
    both = zip(model.optimizer.variables, grown.optimizer.variables, strict=True)
    for old, new in both:
        if old.shape == new.shape:
            np.testing.assert_array_equal(array(old), array(new))
        else:
            moved += 1
            # Linear interpolation keeps values between the minimum and the maximum.
            assert array(old).min() - 1e-6 <= array(new).min()
            assert array(new).max() <= array(old).max() + 1e-6
            assert array(new).any()
    assert moved == 3  # The two moments and the average of the position embeddings.
    assert int(grown.optimizer.iterations) == plan.interval
