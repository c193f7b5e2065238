"""Runs that are killed at ten random points, with bit-identical results."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.training.test_runs import SETTINGS, assert_same_state

pytestmark = pytest.mark.slow

ROUNDS, KILLS = 10, 10
STORM = [*SETTINGS, "jit_compile=True", "epochs=12", "checkpoint_steps=6"]


def start(directory):
    command = [sys.executable, "-m", "keras_vit", "pretrain", "digits_vit"]
    for setting in STORM:
        command += ["--set", setting]
    return subprocess.Popen(
        [*command, "--workdir", str(directory)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def last_write(path):
    return path.stat().st_mtime_ns if path.exists() else 0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    directory = tmp_path_factory.mktemp("storm") / "whole"
    process = start(directory)
    errors = process.communicate()[1].decode()
    assert process.returncode == 0, errors[-2000:]
    return directory


@pytest.mark.parametrize("number", range(ROUNDS))
def test_kills(number, whole, tmp_path):
    moments = random.Random(number)
    directory = tmp_path / "run"
    state = directory / "state.npz"
    kills = 0
    while kills < KILLS:
        process, before = start(directory), last_write(state)
        # Some kills happen before any progress, most around the next checkpoints.
        patience = moments.uniform(0, 15) if moments.random() < 0.2 else 300
        deadline = time.monotonic() + patience
        while last_write(state) == before and time.monotonic() < deadline:
            assert process.poll() is None, process.stderr.read().decode()[-2000:]
            time.sleep(0.001)
        time.sleep(moments.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        kills += 1
        if state.exists():  # Whole, whenever it was killed.
            with np.load(state) as saved:
                assert all(np.isfinite(saved[n]).all() for n in saved if n != "progress")
    process = start(directory)
    errors = process.communicate()[1].decode()
    assert process.returncode == 0, errors[-2000:]
    assert_same_state(directory, whole)
    assert not [name for name in os.listdir(directory) if name.startswith(".partial")]
