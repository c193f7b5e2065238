"""Cache of compiled programs: damaged entries, killed processes, and two at once."""

import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time
import types

import keras
import pytest

from keras_vit import cli
from keras_vit.cli import compilation_cache

pytest.importorskip("jax", reason="the cache is NOT TESTED")
pytestmark = pytest.mark.any_backend
ROOT = pathlib.Path(__file__).parents[2]
# Compiles several programs, and prints the result and the number of events. Keras, whose
# import takes seconds, is replaced by the only function that is needed.
PROGRAM = """
import collections, json, sys, types
import jax
sys.argv = ["/usr/bin/keras-vit"]  # As in the command, `keras_vit` imports no Keras.
sys.modules["keras"] = types.SimpleNamespace(
    config=types.SimpleNamespace(backend=lambda: "jax")
)
from keras_vit.cli import compilation_cache
events = collections.Counter()
jax.monitoring.register_event_listener(lambda name, **_: events.update([name]))
# The test may insert lines here.
compilation_cache.start()
rows = jax.numpy.arange(4096.0).reshape(64, 64)
result = jax.jit(lambda x: jax.numpy.sin(x) @ jax.numpy.cos(x.T))(rows).sum()
names = "hits", "misses"
counts = [events[f"/jax/compilation_cache/cache_{name}"] for name in names]
print(json.dumps([float(result), *counts]))
"""
INSERT = "# The test may insert lines here."
# Ends the process when half of an entry is written.
KILLED = """
import os, pathlib, signal
def kill(name, duration_secs, **_):
    own = jax.config.jax_compilation_cache_dir
    if name == compilation_cache._COMPILED:
        [entry] = pathlib.Path(own).iterdir()
        os.truncate(entry, entry.stat().st_size // 2)
        os.kill(os.getpid(), signal.SIGKILL)
jax.monitoring.register_event_duration_secs_listener(kill)
"""


def environment(**changes):
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("JAX_")
    }
    return {**inherited, "PYTHONPATH": str(ROOT), **changes}


def compile_programs(directory, before="", **options):
    """Start the program, and return the process."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace(INSERT, before)],
        env=environment(KERAS_VIT_COMPILATION_CACHE=str(directory)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process, warnings=0):
    """Return the result and the numbers of loaded and compiled programs."""
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    assert len(errors.splitlines()) == warnings, errors
    return json.loads(output)


def entries(directory):
    return sorted(directory.glob("jaxlib-*/*"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Return a directory with entries, the result, and the number of programs."""
    directory = tmp_path_factory.mktemp("cache")
    result, hits, misses = finish(compile_programs(directory))
    assert hits == 0
    assert misses == len(entries(directory)) >= 4
    return directory, result, misses


def test_the_second_process_compiles_nothing(filled):
    directory, result, count = filled
    before = entries(directory)
    assert finish(compile_programs(directory)) == [result, count, 0]
    assert entries(directory) == before
    assert os.listdir(directory / "processes") == []


def test_damaged_entries_are_replaced(filled):
    directory, result, count = filled
    before = entries(directory)
    contents = before[0].read_bytes()
    before[0].write_bytes(contents[: len(contents) // 2])
    before[1].write_bytes(os.urandom(before[1].stat().st_size))
    before[2].write_bytes(b"")
    assert finish(compile_programs(directory)) == [result, count - 3, 3]
    assert finish(compile_programs(directory)) == [result, count, 0]
    assert len(entries(directory)) == count


@pytest.mark.slow
def test_two_processes_at_once(filled, tmp_path):
    _, result, count = filled
    processes = [compile_programs(tmp_path) for _ in range(2)]
    for process in processes:
        assert finish(process)[0] == result
    assert finish(compile_programs(tmp_path)) == [result, count, 0]
    assert len(entries(tmp_path)) == count  # Without those that were published twice.


def test_a_killed_process_leaves_nothing_harmful(filled, tmp_path):
    _, result, count = filled
    process = compile_programs(tmp_path, KILLED)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    [lock] = (tmp_path / "processes").glob("*.lock")
    assert len(os.listdir(lock.with_suffix(""))) == 1
    os.utime(lock, (0, 0))  # A new lock is left alone: its process may just be starting.
    assert finish(compile_programs(tmp_path)) == [result, 0, count]
    assert os.listdir(tmp_path / "processes") == []


def test_a_directory_that_cannot_be_created(filled, tmp_path):
    _, result, _ = filled
    file = tmp_path / "file"
    file.touch()
    assert finish(compile_programs(file / "cache"), warnings=1) == [result, 0, 0]


def test_entries_that_cannot_be_written(filled, tmp_path):
    def limit():  # Writing more to a file fails as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    _, result, count = filled
    limited = compile_programs(tmp_path, preexec_fn=limit)
    assert finish(limited) == [result, 0, count]
    assert entries(tmp_path) == []
    assert finish(compile_programs(tmp_path)) == [result, 0, count]


@pytest.mark.parametrize(
    ("largest", "most", "left"), [(250, 9, "cd"), (999, 3, "bcd"), (400, 4, "abcd")]
)
def test_the_oldest_entries_are_deleted(largest, most, left, tmp_path, monkeypatch):
    monkeypatch.setattr(compilation_cache, "MAX_BYTES", largest)
    monkeypatch.setattr(compilation_cache, "MAX_ENTRIES", most)
    now = time.time()
    # Times of access and change; "c" was loaded after "b" was written.
    times = {"a": (0, 10), "b": (0, 30), "c": (40, 20), "d": (50, 50)}
    for name, (accessed, changed) in times.items():
        path = tmp_path / f"jaxlib-{name}" / name
        path.parent.mkdir()
        path.write_bytes(bytes(100))
        os.utime(path, (now + accessed, now + changed))
    compilation_cache._evict(tmp_path)
    assert "".join(path.name for path in entries(tmp_path)) == left


@pytest.mark.parametrize("reason", ["off", "tensorflow", "torch", "JAX's own setting"])
def test_nothing_is_cached(reason, tmp_path, monkeypatch):
    backend = reason if reason in ("tensorflow", "torch") else "jax"
    monkeypatch.setattr(keras.config, "backend", lambda: backend)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(compilation_cache.VARIABLE, "off" if reason == "off" else "")
    directory = "somewhere" if reason == "JAX's own setting" else ""
    config = types.SimpleNamespace(jax_compilation_cache_dir=directory, update=None)
    monkeypatch.setattr("jax.config", config)
    compilation_cache.start()
    assert os.listdir(tmp_path) == []


def test_the_default_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert compilation_cache._default_root() == tmp_path / "keras_vit" / "jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compilation_cache._default_root() == tmp_path / ".cache" / "keras_vit" / "jax"


def test_the_commands_start_the_cache(monkeypatch):
    started = []
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(cli.interrupts, "install", lambda: None)
    monkeypatch.setattr(compilation_cache, "start", lambda: started.append(True))
    cli.main(["list", "vit_b16"])
    assert started == [True]


TRAINING = """
import jax, keras, numpy as np
import keras_vit
from keras_vit.cli import compilation_cache
compilation_cache.start()
misses = []
jax.monitoring.register_event_listener(
    lambda name, **_: misses.extend([name] * name.endswith("cache_misses"))
)
keras.utils.set_random_seed(0)
sizes = dict(patch_size=8, hidden_dim=32, num_layers=2, num_heads=2, mlp_dim=64)
model = keras_vit.ViT(input_shape=(32, 32, 3), classes=4, weights=None, **sizes)
model.compile("adamw", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
images = np.random.default_rng(0).random((24, 32, 32, 3), np.float32)
history = model.fit(images, np.arange(24) % 4, batch_size=8, epochs=2, verbose=0)
print(history.history["loss"], len(misses) > 0)
"""


@pytest.mark.slow
def test_training_continues_with_the_same_bits(tmp_path):
    outputs = [
        subprocess.run(
            [sys.executable, "-c", TRAINING],
            env=environment(KERAS_BACKEND="jax", KERAS_VIT_COMPILATION_CACHE=setting),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for setting in ("off", str(tmp_path), str(tmp_path))
    ]
    losses = outputs[0].removesuffix(" False\n")
    assert outputs == [f"{losses} {compiled}\n" for compiled in (False, True, False)]
