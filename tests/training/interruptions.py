"""Interruptions of training runs."""

import signal
import subprocess
import sys
import time

import pytest

from keras_vit.training import runs
from keras_vit.training.run_directory import RunDirectory


def train_to_next_checkpoint(config, directory, monkeypatch):
    """Start or resume a run, and interrupt it when it has saved a checkpoint."""
    save = RunDirectory.save_state

    def save_and_stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "save_state", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            runs.train(config, directory)


def kill_at_first_checkpoint(command, what, settings, directory):
    """Run a command in a process of its own, and kill it at the first checkpoint.

    Args:
        command: `"pretrain"` or `"finetune"`.
        what: the config or checkpoint.
        settings: values of `--set`.
        directory: directory of the run.
    """
    # Not `-m keras_vit`, which turns oneDNN on: this process may run without it.
    program = "import sys; from tests.commands import run_command; "
    program += f"run_command({command!r}, sys.argv[1:])"
    words = [sys.executable, "-c", program, str(what)]
    for setting in settings:
        words += ["--set", setting]
    process = subprocess.Popen(
        [*words, "--workdir", str(directory)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (directory / "state.npz").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
