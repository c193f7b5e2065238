"""Train one run on several meshes of virtual devices, and compare the results.

python -m tests.training.on_meshes DIRECTORY [NAME=VALUE ...] MESH [MESH ...], where a
MESH is a dict in JSON, and NAME=VALUE overrides the config. With the key "then", whose
value is another MESH, SIGTERM stops the run between two checkpoints, and it is resumed on
that one. The devices are made by XLA_FLAGS=--xla_force_host_platform_device_count=8.
Prints, for each mesh, the largest relative differences to one device as JSON.
"""

import contextlib
import json
import os
import pathlib
import signal
import sys
from unittest import mock

import keras
import numpy as np

from keras_vit.training import config as configs
from keras_vit.training import distributed, runs
from keras_vit.training.callbacks import RunCallback
from keras_vit.training.preemption import Preempted

# Everything that random numbers or averages over devices could break.
SETTINGS = [
    # The gradient of the biases of keys is 0, so that rounding would decide on them.
    "model.arguments.qkv_bias=qv",
    "model.arguments.num_layers=2",
    "model.arguments.dropout_rate=0.1",
    "model.arguments.stochastic_depth_rate=0.1",
    "augmentation.mixup=0.8",
    # Not Adam, which divides by the size of the gradient: where that is nearly 0,
    # rounding would decide on a whole step.
    "optimization.optimizer=sgd",
    "optimization.momentum=0.9",
    "optimization.learning_rate=0.03",
    "optimization.warmup_steps=2",
    "optimization.ema=0.9",
    "optimization.accumulation_steps=2",
    "optimization.clip_norm=1.0",
    "steps=20",
    "checkpoint_steps=10",
    "batch_size=32",
]


def trained(directory, mesh, fully_sharded=False, then=None):
    """Train on a mesh; return the losses and the variables of the run by path."""
    config = configs.override(configs.load("digits_vit"), SETTINGS)
    if then is not None:
        with (
            mock.patch.object(RunCallback, "on_train_batch_begin", interrupt),
            contextlib.suppress(Preempted),
        ):
            train_on(config, directory, mesh, fully_sharded)
        assert pathlib.Path(directory, "state.npz").exists()
        assert not pathlib.Path(directory, "results.json").exists()
        return trained(directory, **then)
    train_on(config, directory, mesh, fully_sharded)
    return state(directory)


def train_on(config, directory, mesh, fully_sharded):
    keras.utils.clear_session()
    with distributed(mesh, fully_sharded):
        runs.train(config, directory)


def interrupt(callback, batch, logs=None):
    """Send SIGTERM in the thirteenth step, in place of a callback's method."""
    if callback.step == 12:
        os.kill(os.getpid(), signal.SIGTERM)


def state(directory):
    """Return the losses and the variables of a run by path."""
    results = json.loads(pathlib.Path(directory, "results.json").read_text())
    losses = [results[name] for name in ("loss", "val_loss", "test_loss")]
    with np.load(pathlib.Path(directory, "state.npz")) as file:
        progress = json.loads(str(file["progress"]))
        arrays = {
            f"{i:05d} {path}": file[f"{i:05d}"]
            for i, (path, *_) in enumerate(progress["variables"])
        }
    return np.array(losses), arrays


def difference(found, expected):
    """Return the norm of a difference, relative to that of the expected values."""
    size = np.linalg.norm(np.asarray(expected, "float64"))
    error = np.linalg.norm(np.asarray(found, "float64") - expected)
    return float(error / size) if size else float(error)


def main(directory, *words):
    """Compare the meshes with one device."""
    meshes = [word for word in words if word.startswith("{")]
    SETTINGS.extend(word for word in words if word not in meshes)
    losses, arrays = trained(f"{directory}/one", None)
    for number, text in enumerate(meshes):
        found = trained(f"{directory}/{number}", **json.loads(text))
        assert found[1].keys() == arrays.keys()
        kinds = {"loss": max(map(difference, found[0], losses))}
        for name, value in arrays.items():
            kind = "seeds" if "seed_generator" in name else "variables"
            error = difference(found[1][name], value)
            kinds[kind] = max(kinds.get(kind, 0.0), error)
        print(json.dumps(kinds), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
