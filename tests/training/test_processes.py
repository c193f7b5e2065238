"""Runs that several processes train together."""

import csv
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from keras_vit import processes
from keras_vit.cli import parse
from keras_vit.training import distributed
from tests.training.on_meshes import SETTINGS, difference, state
from tests.training.test_sharding import check_evaluation

only_jax = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="processes are those of JAX"
)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--coordinator", "host:1"], "needs --processes and --process"),
        (["--processes", "2"], "need --coordinator HOST:PORT"),
        (["--coordinator", "auto", "--process", "1"], "need --coordinator HOST:PORT"),
        (
            ["--coordinator", "host:1", "--processes", "2", "--process", "2"],
            "must be 0 to 1; received 2",
        ),
    ],
)
def test_wrong_options(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse("pretrain", ["digits_vit", "--workdir", "run", *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.any_backend
def test_a_process_alone_waits_for_nobody():
    processes.wait("a place")
    processes.check_equal({"anything": 1})
    assert (processes.count(), processes.is_first()) == (1, True)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("UNAVAILABLE: connection closed", True),
        ("INTERNAL: Gloo AllReduce failed", True),
        ("UNKNOWN: the coordination service ended", True),
        ("INTERNAL: Failed to compile a kernel", False),
        ("ValueError", False),
    ],
)
def test_only_errors_of_other_processes_are_blamed_on_them(text, told, monkeypatch):
    error = RuntimeError(text)
    assert processes.loss_of_process(error) is None
    monkeypatch.setattr(processes, "_count", 2)
    assert (processes.loss_of_process(error) is not None) == told


@only_jax
def test_one_device_for_several_processes_is_an_error(monkeypatch):
    monkeypatch.setattr(processes, "_count", 2)
    devices = ["cpu:0", "cpu:1"]
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: devices)
    with pytest.raises(ValueError, match="must use all of them; the mesh has 1"):
        distributed({"data": 1}).__enter__()


def free_address():
    """Return an address of this host that nothing listens to."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def running(words):
    """Return a process that runs a module of Python."""
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def started(directory, count=2, settings=((), ()), options=()):
    """Start processes that train one run, and return them."""
    words = ["pretrain", "digits_vit", "--workdir", str(directory), *options]
    commands = [
        [*words, *(f"--set={one}" for one in (*SETTINGS, "checkpoint_steps=5", *own))]
        for own in settings[:count]
    ]
    if count > 1:
        shared = ["--coordinator", free_address(), "--processes", str(count)]
        for index, command in enumerate(commands):
            command += [*shared, "--process", str(index)]
    return [running(["keras_vit", *command]) for command in commands]


def ended(started):
    """Return the status, the output and the errors of processes, once they have ended."""
    texts = [process.communicate(timeout=300) for process in started]
    return [(p.returncode, *text) for p, text in zip(started, texts, strict=True)]


def check_same_run(directory, expected):
    """Check that two runs ended with the same losses and the same state."""
    losses, arrays = state(directory)
    expected_losses, expected_arrays = state(expected)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    assert arrays.keys() == expected_arrays.keys()
    for name, value in expected_arrays.items():
        assert difference(arrays[name], value) < 1e-5, name


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return the directory of a run that one process trained."""
    directory = tmp_path_factory.mktemp("alone") / "run"
    [(status, _, errors)] = ended(started(directory, count=1))
    assert status == 0, errors
    return directory


@only_jax
@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "devices"),
    [
        ([], "2 devices"),
        (["--fully-sharded"], "2 devices; weights fully sharded"),
        (["--mesh", "data=1,model=2"], "1 x 2 devices"),
    ],
)
def test_two_processes_train_as_one(options, devices, tmp_path, alone):
    first, second = ended(started(tmp_path / "run", options=options))
    assert first[0] == second[0] == 0, first[2] + second[2]
    check_same_run(tmp_path / "run", alone)
    assert f"on {devices}" in first[1]
    assert "Epoch" not in second[1]  # Only the first one prints and writes.


@only_jax
@pytest.mark.slow
@pytest.mark.parametrize(("lost", "options"), [(0, []), (1, ["--fully-sharded"])])
def test_a_run_that_lost_a_process_resumes(lost, options, tmp_path, alone):
    both = started(tmp_path / "run", options=options)
    while not (tmp_path / "run" / "state.npz").exists():
        assert both[lost].poll() is None, both[lost].communicate()
        time.sleep(0.1)
    both[lost].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    status, _, errors = ended([both[1 - lost]])[0]
    assert time.monotonic() - killed < 60
    assert status != 0
    # JAX may notice it first; it then ends the process with its own message.
    messages = "Another process of the run ended", "another task died"
    assert any(message in errors for message in messages), errors
    both[lost].communicate()
    first, second = ended(started(tmp_path / "run", options=options))
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert "Resumed at step" in first[1]
    check_same_run(tmp_path / "run", alone)


@only_jax
@pytest.mark.slow
def test_processes_of_which_one_receives_sigterm_save_and_stop_together(tmp_path, alone):
    both = started(tmp_path / "run")
    while not (tmp_path / "run" / "state.npz").exists():
        assert both[1].poll() is None, both[1].communicate()
        time.sleep(0.01)
    both[1].send_signal(signal.SIGTERM)
    texts = []
    for status, _, errors in ended(both):
        assert status == 128 + signal.SIGTERM, errors
        texts += re.findall("interrupted at step .*", errors)
    assert texts[0] == texts[1]
    first, second = ended(started(tmp_path / "run"))
    assert first[0] == second[0] == 0, first[2] + second[2]
    step = re.search(r"from the checkpoint of step (\d+)", texts[0])[1]
    assert f"Resumed at step {step}." in first[1]
    check_same_run(tmp_path / "run", alone)


@only_jax
@pytest.mark.slow
def test_an_evaluation_by_two_processes_counts_each_image_once():
    address = free_address()
    words = "tests.training.on_many_images", address, 2
    first, second = ended([running([*words, index]) for index in range(2)])
    assert second[0] == 0, second[2]
    check_evaluation(subprocess.CompletedProcess(words, *first))


@only_jax
@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--mesh", "data=1,model=2"]])
def test_two_processes_evaluate_as_one(options, tmp_path, alone):
    shutil.copytree(alone, tmp_path / "run")
    words = ["evaluate", str(tmp_path / "run"), "--report", "--set=batch_size=32"]
    address = free_address()
    # One batch of the 360 test images is not full.
    one = running(["keras_vit", *words, "--workdir", str(tmp_path / "one")])
    [(status, _, errors)] = ended([one])
    assert status == 0, errors
    two = [*words, "--workdir", str(tmp_path / "two"), "--coordinator", address, *options]
    started = [
        running(["keras_vit", *two, "--processes", "2", "--process", str(index)])
        for index in range(2)
    ]
    first, second = ended(started)
    assert first[0] == second[0] == 0, first[2] + second[2]
    assert "accuracy" in first[1]
    assert "accuracy" not in second[1]
    results = [
        json.loads((tmp_path / name / "evaluation.json").read_text())
        for name in ("one", "two")
    ]
    losses = [found.pop("loss") for found in results]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)
    assert results[1] == results[0]
    tables = [
        list(csv.DictReader((tmp_path / name / "predictions.csv").open()))
        for name in ("one", "two")
    ]
    for name in ("image", "label", "prediction"):
        assert [row[name] for row in tables[1]] == [row[name] for row in tables[0]]
    assert (tmp_path / "two" / "report.html").exists()


@only_jax
@pytest.mark.slow
def test_processes_with_other_configs_are_an_error(tmp_path):
    settings = ["batch_size=32"], ["batch_size=64"]
    for status, _, errors in ended(started(tmp_path / "run", settings=settings)):
        assert status == 1
        assert "differ in the config's batch_size" in errors.splitlines()[-1]
    assert not (tmp_path / "run" / "config.json").exists()


@only_jax
@pytest.mark.slow
def test_a_coordinator_that_does_not_answer_is_an_error():
    code = (
        "from keras_vit import processes\n"
        "processes.CONNECTING_SECONDS = 3\n"
        "with processes.joined('localhost:9', 2, 1): pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "No process 0 answers at the coordinator localhost:9 within 3 s" in done.stderr
