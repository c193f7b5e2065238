"""Runs that stop early, are extended, or are interrupted in between."""

import csv
import json
import shutil
import types
from math import nan

import numpy as np
import pytest

from keras_vit.training import WarmupSchedule, duration, runs
from keras_vit.training import config as configs
from keras_vit.training.callbacks import RunCallback
from keras_vit.training.objectives.base import Objective
from keras_vit.training.run_directory import RunDirectory
from tests.training import wandb_stub
from tests.training.test_runs import assert_same_state

pytestmark = [
    pytest.mark.any_backend,
    # After so few steps, the classifier of best.keras may still be all zeros.
    pytest.mark.filterwarnings("ignore:The classifier in .* is all zeros"),
]

# A checkpoint after every step.
SETTINGS = [
    "steps=2",
    "checkpoint_steps=1",
    "batch_size=8",
    "jit_compile=False",
    "data.test=None",
    "optimization.learning_rate=1e-2",
    "optimization.warmup_steps=1",
    "model.arguments.input_shape=(8, 8, 1)",
    "model.arguments.patch_size=4",
    "model.arguments.hidden_dim=16",
    "model.arguments.mlp_dim=16",
    "model.arguments.num_layers=1",
    "model.arguments.num_heads=2",
    "augmentation.pad_and_crop=0",
]


def changed(*settings):
    return configs.override(configs.load("digits_vit"), [*SETTINGS, *settings])


def rows(directory):
    with open(directory / "log.csv") as file:
        return list(csv.DictReader(file))


def interrupt_after(checkpoints, monkeypatch):
    """Interrupt runs when they have saved the state of a checkpoint."""
    save = RunDirectory.save_state

    def interrupted(directory, variables, progress):
        save(directory, variables, progress)
        if len(progress["history"]) == checkpoints:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunDirectory, "save_state", interrupted)


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """Train a run of two steps, which W&B logs too."""
    directory = tmp_path_factory.mktemp("short") / "run"
    with pytest.MonkeyPatch.context() as patch:
        wandb = wandb_stub.install(patch)
        runs.train(changed("trackers=tensorboard,wandb"), directory)
    expected = [{k: float(v) for k, v in row.items()} for row in rows(directory)]
    assert wandb.rows == [(epoch, row) for epoch, row in enumerate(expected)]
    return directory


@pytest.mark.slow
def test_a_longer_run(short, tmp_path, monkeypatch, capsys):
    longer, interrupted = tmp_path / "longer", tmp_path / "interrupted"
    shutil.copytree(short, longer)
    shutil.copytree(short, interrupted)
    results = runs.train(changed("steps=4"), longer)
    assert results["last"]["step"] == 4
    assert "it now has 4 steps. From step 2 on, the" in capsys.readouterr().out
    assert rows(longer)[:2] == rows(short)
    rates = [float(row["learning_rate"]) for row in rows(longer)]
    # Each row has the rate of the update after it.
    schedules = [WarmupSchedule(1e-2, steps, warmup_steps=1) for steps in (2, 2, 4, 4)]
    exact = [float(schedule(step + 1)) for step, schedule in enumerate(schedules)]
    np.testing.assert_allclose(rates, exact, rtol=1e-5, atol=1e-9)
    assert json.loads((longer / "config.json").read_text())["steps"] == 4
    record = json.loads((longer / "environment.json").read_text())["extensions"]
    change = {"checkpoint": 2, "before": {"steps": 2}, "after": {"steps": 4}}
    assert record == [change]

    with monkeypatch.context() as patch:
        interrupt_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            runs.train(changed("steps=4"), interrupted)
    assert not (interrupted / "results.json").exists()
    with pytest.raises(FileExistsError, match="repeat the command with --set steps=4 or"):
        runs.train(changed(), interrupted)
    runs.train(changed("steps=4"), interrupted)
    assert_same_state(interrupted, longer)
    record = json.loads((interrupted / "environment.json").read_text())["extensions"]
    assert record == [change]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["steps=1"], "can become longer, but not shorter"),
        (["steps=4", "seed=1"], r"\(seed: 0 there, 1 here\).*Only epochs and steps may"),
    ],
)
def test_other_changes_are_refused(settings, message, short):
    before = {path: path.stat().st_mtime_ns for path in short.iterdir()}
    with pytest.raises(FileExistsError, match=message):
        runs.train(changed(*settings), short)
    assert before == {path: path.stat().st_mtime_ns for path in short.iterdir()}


@pytest.mark.slow
def test_early_stopping(tmp_path, monkeypatch, capsys):
    # The rate rounds to 0 in float32, so the first checkpoint remains the best.
    idle = ["steps=6", "optimization.learning_rate=1e-50"]
    stopping = changed(*idle, "early_stopping=2")
    with monkeypatch.context() as patch:
        interrupt_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            runs.train(stopping, tmp_path)
    # Counting again from here would take two more checkpoints instead of one.
    results = runs.train(stopping, tmp_path)
    assert (results["step"], results["last"]["step"]) == (1, 3)
    assert results["stopped_early"]
    printed = capsys.readouterr().out
    assert "Early stopping: the last 2 checkpoints have no better val_accuracy" in printed
    assert "best.keras, of step 1:" in printed
    assert f"to use the other one, give them {tmp_path}/last.keras" in printed
    assert len(rows(tmp_path)) == 3
    runs.train(stopping, tmp_path)  # It stays as it is.
    assert len(rows(tmp_path)) == 3
    results = runs.train(changed(*idle), tmp_path)
    assert len(rows(tmp_path)) == 6
    assert "stopped_early" not in results


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["early_stopping=0"], "1 or more; received 0"),
        (["early_stopping=2", "objective=dino"], "no metric shows progress"),
        (
            ["early_stopping=1", "resolutions=((0.5, 8), (0.5, 12))"],
            "early_stopping or resolutions, not both",
        ),
    ],
)
def test_early_stopping_that_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        runs.make_plan(changed(*settings))


@pytest.mark.any_backend
@pytest.mark.parametrize("key", [*duration.POSITIVE, "optimization.accumulation_steps"])
def test_numbers_below_1_are_refused(key):
    for value in (0, -3):
        with pytest.raises(
            ValueError, match=f"{key} must be 1 or more; received {value}"
        ):
            runs.make_plan(changed(f"{key}={value}"))


@pytest.mark.any_backend
def test_fewer_steps_than_an_epoch():
    plan = runs.make_plan(changed("steps=5", "checkpoint_steps=None"))
    assert (plan.interval, plan.steps) == (5, 5)


@pytest.mark.any_backend
def test_a_longer_run_has_as_many_steps_between_checkpoints():
    before = changed("steps=5", "checkpoint_steps=None")
    directory = types.SimpleNamespace(
        path="run", before=before, duration_before=lambda: {"steps": 5}
    )
    plan = runs.make_plan(changed("steps=1000", "checkpoint_steps=None"))
    with pytest.raises(FileExistsError, match=r"with 5 steps from checkpoint .* 157"):
        duration.check_longer(plan, directory)


@pytest.mark.any_backend
def test_a_run_that_is_killed_before_its_best_model_is_written(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt_after(1, patch)
        with pytest.raises(KeyboardInterrupt):
            runs.train(changed(), tmp_path / "run")
    assert not (tmp_path / "run" / "best.keras").exists()
    monkeypatch.setattr(runs, "_train_phases", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        runs.train(changed(), tmp_path / "run")
    assert (tmp_path / "run" / "best.keras").exists()


def callback(losses, **values):
    """Return the callback of a run of six steps that has a history of losses."""
    made = object.__new__(RunCallback)
    made.config = changed(*(f"{key}={value}" for key, value in values.items()))
    made.plan = types.SimpleNamespace(interval=1, steps=6)
    made.objective = type("Least", (Objective,), {"watched": "val_loss", "better": min})
    made.history = [{"step": n + 1, "val_loss": x} for n, x in enumerate(losses)]
    made.step, made.last_saved = len(losses) + 1, len(losses)
    return made


@pytest.mark.parametrize(
    ("losses", "stops"),
    [
        ([], False),
        ([3.0, 3.0], False),
        ([3.0, 3.0, 3.0], True),
        ([3.0, 4.0, 2.0, 5.0], False),
        ([3.0, 4.0, 2.0, 5.0, 2.0], True),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], False),  # The run has ended anyway.
    ],
)
def test_two_checkpoints_without_a_better_result(losses, stops):
    assert callback(losses, early_stopping=2).stops_early() == stops
    assert not callback(losses).stops_early()


def test_a_loss_that_is_not_a_number_is_never_the_best():
    for losses, best in (([nan, 3.0, 2.0, nan], 3), ([nan, nan], 1)):
        assert callback(losses).best_row()["step"] == best
        assert callback(losses, early_stopping=5).stops_early() is False


def test_an_interrupted_command_prints_the_command(monkeypatch):
    arguments = ["pretrain", "digits_vit", "--workdir", "a run", "--no-resume"]
    monkeypatch.setattr("sys.argv", ["keras-vit", *arguments])
    first, second = callback([3.0]).interruption().splitlines()
    assert first.endswith("the same command resumes from the checkpoint of step 1:")
    assert second == "  keras-vit pretrain digits_vit --workdir 'a run'"
    monkeypatch.setattr("sys.argv", ["my_program.py"])
    assert callback([]).interruption().endswith("command starts from the first step")
