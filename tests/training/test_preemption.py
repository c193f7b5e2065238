"""Runs that SIGTERM stops save their state in the middle of an interval."""

import csv
import os
import re
import signal

import keras
import pytest

from keras_vit.training import callbacks, preemption, runs
from keras_vit.training import config as configs
from keras_vit.training.run_directory import RunDirectory
from tests.commands import run_command
from tests.training.test_runs import SETTINGS, assert_same_state

AT_ONCE = 1 if keras.backend.backend() == "torch" else 2
CONFIG = configs.override(
    configs.load("digits_vit"),
    [*SETTINGS, "epochs=2", f"steps_per_execution={AT_ONCE}"],
)


def signal_before(step, monkeypatch):
    """Make runs send SIGTERM to this process before a step."""
    begin = callbacks.RunCallback.on_train_batch_begin

    def begin_and_signal(callback, batch, logs=None):
        begin(callback, batch, logs)
        # Several steps may be executed together: `step` may be skipped.
        if callback.step >= step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(callbacks.RunCallback, "on_train_batch_begin", begin_and_signal)


def interrupted_at(step, config, directory, monkeypatch):
    """Start or resume a run, and stop it by SIGTERM before a step."""
    with monkeypatch.context() as patch:
        signal_before(step, patch)
        with pytest.raises(preemption.Preempted) as stop:
            runs.train(config, directory)
    return str(stop.value)


def interrupted_evaluation(config, directory, monkeypatch):
    """Resume a run, and send SIGTERM to this process in the next evaluation."""
    end = callbacks.Interruptible.on_test_batch_end

    def signal_and_end(callback, batch, logs=None):
        os.kill(os.getpid(), signal.SIGTERM)
        end(callback, batch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Interruptible, "on_test_batch_end", signal_and_end)
        with pytest.raises(preemption.Preempted) as stop:
            runs.train(config, directory)
    return str(stop.value)


def check_same(directory, whole):
    """Check that two runs have the same state and, but for times, the same log."""
    assert_same_state(directory, whole)
    logs = [[*csv.DictReader((d / "log.csv").open())] for d in (directory, whole)]
    for row, expected in zip(*logs, strict=True):
        assert row.keys() == expected.keys()
        different = {key for key in row if row[key] != expected[key]}
        assert different <= {"seconds", "images_per_second"}


@pytest.mark.any_backend
def test_a_run_resumes_from_the_step_at_which_it_was_stopped(
    tmp_path, monkeypatch, capsys
):
    whole, directory = tmp_path / "whole", tmp_path / "run"
    runs.train(CONFIG, whole)
    for step in (2, 6):  # Twice in an interval of 12 steps.
        text = interrupted_at(step, CONFIG, directory, monkeypatch)
        assert f"from the checkpoint of step {step + AT_ONCE}" in text
    text = interrupted_evaluation(CONFIG, directory, monkeypatch)
    assert "from the checkpoint of step 12" in text
    assert not (directory / "log.csv").exists()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    runs.train(CONFIG, directory, resume=True)
    assert "Resumed at step 12." in capsys.readouterr().out
    check_same(directory, whole)


@pytest.mark.slow
def test_a_run_resumes_in_its_second_phase(tmp_path, monkeypatch):
    config = configs.override(CONFIG, ["resolutions=[(0.5, 16), (0.5, 24)]"])
    whole, directory = tmp_path / "whole", tmp_path / "run"
    runs.train(config, whole)
    interrupted_at(14, config, directory, monkeypatch)
    runs.train(config, directory, resume=True)
    check_same(directory, whole)


@pytest.mark.slow
def test_a_signal_while_a_checkpoint_is_saved_before_the_next_phase(
    tmp_path, monkeypatch
):
    phases = ["epochs=4", "resolutions=[(0.5, 16), (0.5, 24)]"]
    config = configs.override(CONFIG, phases)
    whole, directory = tmp_path / "whole", tmp_path / "run"
    runs.train(config, whole)

    def save_and_signal(directory, history, save=RunDirectory.save_history):
        os.kill(os.getpid(), signal.SIGTERM)
        save(directory, history)

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "save_history", save_and_signal)
        with pytest.raises(preemption.Preempted, match="from the checkpoint of step 12"):
            runs.train(config, directory)
    runs.train(config, directory, resume=True)
    check_same(directory, whole)


def test_processes_agree_on_the_end_of_an_interval(monkeypatch):
    """JAX answers True at one call only; the evaluation after it must stop as well."""
    utilities = pytest.importorskip("jax.experimental.multihost_utils")
    asked = []

    def reached(number):
        asked.append(number)
        return number == 3

    monkeypatch.setattr(utilities, "reached_preemption_sync_point", reached)
    monkeypatch.setattr(preemption.processes, "count", lambda: 2)
    answers = []
    with pytest.raises(preemption.Preempted), preemption.noticed():  # noqa: PT012
        for _ in range(4):
            answers.append((preemption.stops(), preemption.received()))
    assert answers == [(False, False)] * 2 + [(True, True)] * 2
    assert asked == [1, 2, 3]  # Every number, however many steps are executed together.


@pytest.mark.any_backend
def test_a_command_that_was_stopped(tmp_path, monkeypatch, capsys):
    signal_before(0, monkeypatch)
    words = ["digits_vit", *(f"--set={setting}" for setting in SETTINGS)]
    with pytest.raises(SystemExit) as stop:
        run_command("pretrain", [*words, "--workdir", str(tmp_path / "run")])
    assert stop.value.code == 128 + signal.SIGTERM
    pattern = r"interrupted at step (\d); the same command resumes from .* of step \1"
    assert re.search(pattern, capsys.readouterr().err)
