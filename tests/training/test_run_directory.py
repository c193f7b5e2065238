"""Run directories: damaged states, locks and changed settings."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import zipfile

import filelock
import keras
import numpy as np
import pytest

from keras_vit.training import config as configs
from keras_vit.training.directory_lock import LOCK, locked
from keras_vit.training.run_directory import STATES, RunDirectory

pytestmark = pytest.mark.any_backend

CONFIG = configs.to_dict(configs.load("digits_vit"))


def variables(value=0.0):
    return [keras.Variable(np.full((5, 7), value, "float32")) for _ in range(3)]


def save(directory, number):
    values = variables(number)
    directory.save_state(values, {"history": [{"step": n + 1} for n in range(number)]})


@pytest.fixture
def run(tmp_path):
    """Create a run with two checkpoints, whose variables equal their number."""
    directory = RunDirectory(tmp_path / "run", CONFIG)
    with directory.held():
        directory.record()
        save(directory, 1)
        save(directory, 2)
    return directory.path


def resumed(path, config=CONFIG, resume=None):
    """Resume a run; return the number of checkpoints, the value and any damage."""
    directory, values = RunDirectory(path, config, resume), variables()
    with directory.held():
        directory.load_state(values)
        (value,) = {float(x) for v in values for x in np.ravel(v.numpy())}
        directory.record()
        return directory.checkpoints(), value, directory.damage


def without_member(path):
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members.pop("00001.npy")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "a bit": flipped,
    "empty": lambda path: os.truncate(path, 0),
    "a member less": without_member,
    "other bytes": lambda path: path.write_text("not a state"),
    "missing": lambda path: path.unlink(),
}


def damage(path, how):
    copy = path.with_name("copy")
    shutil.copyfile(path, copy)  # The files may be hard links to one file.
    DAMAGES[how](copy)
    if copy.exists():
        copy.replace(path)
    else:
        path.unlink()


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_state(how, run):
    assert resumed(run) == (2, 2.0, "")
    if how == "missing":
        (run / STATES[0]).unlink()
    else:
        damage(run / STATES[0], how)
    checkpoints, value, reason = resumed(run)
    assert (checkpoints, value) == (1, 1.0)
    assert "state.npz is" in reason
    # Resuming makes the older state the newest, so that the damaged one is not kept.
    assert resumed(run) == (1, 1.0, "")
    directory = RunDirectory(run, CONFIG)
    with directory.held():
        save(directory, 2)
    assert resumed(run) == (2, 2.0, "")


def test_two_damaged_states(run):
    before = (run / "environment.json").read_text()
    for name in STATES:
        damage(run / name, "a bit")
    with pytest.raises(ValueError, match=r"cannot be resumed: .*state\.npz is damaged"):
        resumed(run)
    assert (run / "environment.json").read_text() == before
    for name in STATES:
        (run / name).unlink()
    assert resumed(run) == (0, 0.0, "")


def test_random_damage_is_never_resumed_from(run):
    chosen, path = random.Random(0), run / STATES[0]
    whole = path.read_bytes()
    previous = (run / STATES[1]).read_bytes()
    for _ in range(25):
        content = bytearray(whole)
        content[chosen.randrange(len(content))] ^= 1 << chosen.randrange(8)
        path.unlink()
        path.write_bytes(content)
        (run / STATES[1]).write_bytes(previous)
        checkpoints, value, _ = resumed(run)
        assert (checkpoints, value) in {(2, 2.0), (1, 1.0)}


def test_a_kill_between_any_two_writes(run, monkeypatch):
    calls = []

    def counted(name):
        function = getattr(os, name)

        def call(*arguments):
            calls.append(name)
            if len(calls) == last:
                raise KeyboardInterrupt
            return function(*arguments)

        monkeypatch.setattr(os, name, call)

    for last in range(1, 5):
        calls.clear()
        for name in ("link", "replace"):
            counted(name)
        directory = RunDirectory(run, CONFIG)
        with directory.held():
            try:
                save(directory, 3)
            except KeyboardInterrupt:
                assert len(calls) == last
        monkeypatch.undo()
        assert resumed(run)[:2] in {(2, 2.0), (3, 3.0)}
    assert resumed(run)[:2] == (3, 3.0)


def test_another_backend_changes_nothing(run, monkeypatch):
    before = (run / "environment.json").read_text()
    other = before.replace(f'"{keras.backend.backend()}"', '"another"', 1)
    (run / "environment.json").write_text(other)
    with pytest.raises(ValueError, match="Set KERAS_BACKEND=another to resume it"):
        resumed(run)
    assert (run / "environment.json").read_text() == other


def test_a_start_without_a_checkpoint_can_be_corrected(tmp_path):
    directory = RunDirectory(tmp_path, CONFIG)
    with directory.held():
        directory.record()
    corrected = {**CONFIG, "batch_size": 17}
    assert resumed(tmp_path, corrected) == (0, 0.0, "")
    assert json.loads((tmp_path / "config.json").read_text())["batch_size"] == 17
    with pytest.raises(FileExistsError, match="batch_size: 17 there, 64 here"):
        resumed(tmp_path, {**CONFIG, "batch_size": 64}, resume=True)
    (tmp_path / "model.safetensors").write_text("precious")
    with pytest.raises(FileExistsError, match="batch_size: 17 there, 64 here"):
        resumed(tmp_path, {**CONFIG, "batch_size": 64})
    (tmp_path / "environment.json").unlink()
    with pytest.raises(FileExistsError, match="is not empty and holds no run"):
        resumed(tmp_path)


def test_results_of_another_patience_are_removed(run):
    for patience, kept in ((None, True), (3, False)):
        (run / "results.json").write_text("{}")
        assert resumed(run, {**CONFIG, "early_stopping": patience}) == (2, 2.0, "")
        assert (run / "results.json").exists() == kept


def test_more_epochs(run):
    (run / "results.json").write_text("{}")
    assert resumed(run) == (2, 2.0, "")
    assert (run / "results.json").exists()
    before = CONFIG["epochs"]
    for epochs in (before + 1, before + 1, before + 2):  # The second changes nothing.
        assert resumed(run, {**CONFIG, "epochs": epochs}) == (2, 2.0, "")
        assert json.loads((run / "config.json").read_text())["epochs"] == epochs
    assert not (run / "results.json").exists()
    extensions = json.loads((run / "environment.json").read_text())["extensions"]
    assert extensions == [
        {"checkpoint": 2, "before": {"epochs": n}, "after": {"epochs": n + 1}}
        for n in (before, before + 1)
    ]


def test_descriptions_may_change(run):
    described = dict.fromkeys(("about", "command", "expected"), "other words")
    assert resumed(run, {**CONFIG, **described}) == (2, 2.0, "")


def test_a_config_of_an_older_version(run):
    older = json.loads((run / "config.json").read_text())
    del older["jit_compile"]
    (run / "config.json").write_text(json.dumps(older))
    assert resumed(run) == (2, 2.0, "")
    (run / "config.json").write_text('{"about": ')
    with pytest.raises(ValueError, match=r"config\.json is damaged"):
        resumed(run)


HOLDER = r"""
import os, sys, time
from keras_vit.training.directory_lock import LOCK, locked
with locked(sys.argv[1]):
    child = os.fork()
    os.write(1, b"%d\n" % child)
    time.sleep(60)
"""


def test_one_writer_at_a_time(run):
    command = [sys.executable, "-c", HOLDER, str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    # After the fork, the parent prints the id of the child, and the child prints 0.
    children = [int(process.stdout.readline()) for _ in range(2)]
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    with pytest.raises(FileExistsError, match=f"in use by process {process.pid} on host"):
        resumed(run)
    assert before == {path: path.stat().st_mtime_ns for path in run.iterdir()}
    process.send_signal(signal.SIGKILL)
    process.wait()
    # The forked child is still alive, but does not hold the lock.
    assert resumed(run) == (2, 2.0, "")
    os.kill(max(children), signal.SIGKILL)
    process.stdout.close()


def test_a_lock_on_a_file_that_was_removed_is_none(tmp_path, monkeypatch):
    """Check that a lock on a removed file does not count.

    Of three processes, one may lock the file that the holder removes, and one a new file.
    """
    acquire, calls = filelock.FileLock.acquire, []

    def late(lock, **options):
        calls.append(lock)
        found = acquire(lock, **options)
        if len(calls) == 1:
            (tmp_path / LOCK).rename(tmp_path / "removed")
            (tmp_path / LOCK).touch()
        return found

    monkeypatch.setattr(filelock.FileLock, "acquire", late)
    with locked(tmp_path):
        monkeypatch.undo()
        assert [lock.is_locked for lock in calls] == [False, True]
        with pytest.raises(FileExistsError, match="in use"), locked(tmp_path):
            pass


def test_a_command_that_fails_leaves_no_directory(tmp_path):
    with pytest.raises(ValueError, match="wrong"), locked(tmp_path / "some" / "new"):
        raise ValueError("wrong")
    assert os.listdir(tmp_path) == []
    with (
        locked(tmp_path / "new"),
        pytest.raises(FileExistsError, match="in use"),
        locked(tmp_path / "new"),
    ):
        pass
