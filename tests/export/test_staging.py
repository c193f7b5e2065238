"""Staging of exports that are killed, collide, or fill the disk."""

import errno
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from keras_vit.export import savedmodel, staging

pytestmark = pytest.mark.any_backend

# The program does not import Keras, which takes seconds.
PROGRAM = f"""
import importlib.util, pathlib, sys, time
spec = importlib.util.spec_from_file_location("staging", {staging.__file__!r})
staging = importlib.util.module_from_spec(spec)
spec.loader.exec_module(staging)
with staging.staged(pathlib.Path(sys.argv[1])) as directory:
    (directory / "weights").write_bytes(b"weights")
    print("ready", flush=True)
    time.sleep(60)
"""


def start(directory):
    command = [sys.executable, "-c", PROGRAM, str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    return process


def end(process, number):
    process.send_signal(number)
    process.stdout.close()
    return process.wait(120)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_leave_nothing(number, tmp_path):
    process = start(tmp_path / "some" / "new")
    assert end(process, number) == (
        -signal.SIGINT if number == signal.SIGINT else 128 + number
    )
    assert os.listdir(tmp_path) == []


def test_only_what_killed_processes_left_is_swept(tmp_path):
    living, killed = start(tmp_path), start(tmp_path)
    end(killed, signal.SIGKILL)
    (tmp_path / ".export-old").mkdir()  # A directory of an older version, without a lock.
    assert len(os.listdir(tmp_path)) == 3
    with staging.staged(tmp_path) as own:
        names = set(os.listdir(tmp_path)) - {own.name}
        assert len(names) == 1
        assert (tmp_path / names.pop() / "weights").exists()
    end(living, signal.SIGTERM)
    assert os.listdir(tmp_path) == []


def test_the_other_process_ends_with_its_parent(tmp_path):
    (tmp_path / "staging").mkdir()
    program = pathlib.Path(staging.__file__).with_name("tensorflow_process.py")
    process = subprocess.Popen(
        [sys.executable, "-P", program, tmp_path / "staging"], stdin=subprocess.PIPE
    )
    time.sleep(0.2)
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(120) == 1
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("links", [True, False])
def test_of_two_files_at_one_place_one_stays(links, tmp_path, monkeypatch):
    if not links:

        def refuse(*paths):
            raise OSError(errno.EPERM, "no hard links here")

        monkeypatch.setattr(os, "link", refuse)
    for name in "ab":
        (tmp_path / name).write_text(name)
    target = tmp_path / "vit.onnx"
    assert staging.place(tmp_path / "a", [target]) == target
    with pytest.raises(FileExistsError, match=r"vit\.onnx appeared meanwhile"):
        staging.place(tmp_path / "b", [target])
    assert target.read_text() == "a"


def test_weights_do_not_stay_without_their_file(tmp_path):
    for name in ("weights", "export", "vit.onnx"):
        (tmp_path / name).write_text(name)
    beside = tmp_path / "vit.onnx.data"
    message = r"vit\.onnx appeared meanwhile"
    with staging.placed(tmp_path / "weights", beside):
        assert beside.read_text() == "weights"
    beside.unlink()
    (tmp_path / "weights").write_text("weights")
    with (
        pytest.raises(FileExistsError, match=message),
        staging.placed(tmp_path / "weights", beside),
    ):
        staging.place(tmp_path / "export", [tmp_path / "vit.onnx"])
    assert not beside.exists()
    assert (tmp_path / "vit.onnx").read_text() == "vit.onnx"


def test_exports_that_started_together_take_the_next_version(tmp_path):
    root, placed = tmp_path / "served", []
    root.mkdir()
    versions = [savedmodel._free_versions(root) for _ in "ab"]
    for targets, name in zip(versions, "ab", strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").write_text(name)
        next(targets)  # Both start while version 1 is free.
    for targets, name in zip(versions, "ab", strict=True):
        # Each tries first the version that was free when it started.
        paths = (path for paths in ([root / "1"], targets) for path in paths)
        placed.append(staging.place(tmp_path / name, paths))
    assert placed == [root / "1", root / "2"]
    assert (root / "1" / "saved_model.pb").read_text() == "a"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("Can't write data (errno = 28, 'No space left on device')"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
)
def test_a_full_disk(error, tmp_path):
    with (
        pytest.raises(OSError, match=r"No space left on the disk.*nothing was written"),
        staging.staged(tmp_path / "some" / "new"),
    ):
        raise error
    assert os.listdir(tmp_path) == []
