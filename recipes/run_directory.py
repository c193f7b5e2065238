"""The directory of a run: what is in it, and how a kill at any moment leaves it whole.

config.json, environment.json    what ran, on what
state.npz                        all that `--resume` needs, at the last checkpoint
log.csv, tensorboard/            one row a checkpoint
classes.json                     the names of the classes, in the order of the labels
best.keras, last.keras           the models: of the best validation result, the last
results.json, curves.png         at the end
"""

import contextlib
import csv
import datetime
import importlib.metadata
import io
import json
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

import keras
import numpy as np


@contextlib.contextmanager
def replacing(path: pathlib.Path):
    """A path to write to; what is written takes `path`'s place when it is on disk."""
    temporary = path.with_name(f".partial-{path.name}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a small file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text)


def environment() -> dict[str, Any]:
    """Versions, machine and revision, for the record."""
    packages = ("keras", "tensorflow", "jax", "torch", "numpy", "tensorflow-datasets")
    versions = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    devices = None
    with contextlib.suppress(AttributeError):  # Keras has no such list under torch.
        devices = keras.distribution.list_devices()
    git = ["git", "-C", str(pathlib.Path(__file__).parent)]
    revision = subprocess.run(
        [*git, "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return {
        "backend": keras.backend.backend(),
        "command": sys.argv,
        "cores": os.cpu_count(),
        "devices": devices,
        "git": revision.stdout.strip() or None,
        "python": platform.python_version(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions,
    }


class RunDirectory:
    """A new directory, or one that holds an earlier part of the same run.

    Args:
        path: the directory; made where it is not there.
        config: of the run, as plain dicts.
        resume: None to go on where there is a run, True to insist on one, False for a
            new run only.

    Raises:
        FileExistsError: it holds the run of another config, or something else, or a run
            although `resume=False`.
        FileNotFoundError: `resume=True`, and it holds no run.
    """

    def __init__(
        self, path: str | os.PathLike, config: dict[str, Any], resume: bool | None = None
    ):
        self.path = pathlib.Path(path)
        earlier = self.path / "config.json"
        if earlier.exists():
            self._check_same(json.loads(earlier.read_text()), config)
            if resume is False and (self.path / "state.npz").exists():
                raise FileExistsError(
                    f"{self.path} holds a run of this config. Choose another --workdir, "
                    "or leave --no-resume out to go on with it."
                )
        elif resume:
            raise FileNotFoundError(f"--resume: there is no run in {self.path}.")
        elif self.path.exists() and any(self.path.iterdir()):
            raise FileExistsError(
                f"{self.path} is not empty and holds no run; choose another --workdir."
            )
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(earlier, json.dumps(config, indent=1))
        write_text(self.path / "environment.json", json.dumps(environment(), indent=1))

    def _check_same(self, old, new):
        changed = [
            f"{key}: {a!r} there, {b!r} here"
            for key, a, b in _differences(old, new)
            # What may change between parts of one run.
            if key.partition(".")[0] not in ("about", "command", "hardware", "measured")
        ]
        if changed:
            raise FileExistsError(
                f"{self.path} holds the run of another config ({'; '.join(changed)}). "
                "Choose another --workdir."
            )

    def checkpoints(self) -> int:
        """How many checkpoints the run has behind it."""
        path = self.path / "state.npz"
        if not path.exists():
            return 0
        with np.load(path) as state:
            return len(json.loads(str(state["progress"]))["history"])

    def save_state(self, variables: list, progress: dict[str, Any]) -> None:
        """Writes all that a resumed run needs, in the place of the last such state."""
        arrays = {
            f"{i:05d}": keras.ops.convert_to_numpy(variable.value)
            for i, variable in enumerate(variables)
        }
        described = [
            [variable.path, list(variable.shape), str(variable.dtype)]
            for variable in variables
        ]
        text = json.dumps({"variables": described, **progress})
        with replacing(self.path / "state.npz") as temporary, open(temporary, "wb") as f:
            np.savez(f, progress=np.array(text), **arrays)

    def load_state(self, variables: list) -> dict[str, Any] | None:
        """Gives variables their values of the last state; what `save_state` was told.

        None where there is no state yet.
        """
        path = self.path / "state.npz"
        if not path.exists():
            return None
        with np.load(path) as state:
            progress = json.loads(str(state["progress"]))
            described = [
                [list(variable.shape), str(variable.dtype)] for variable in variables
            ]
            if [row[1:] for row in progress.pop("variables")] != described:
                raise ValueError(
                    f"{path} has other variables than the model and the optimizer: it "
                    "was written by another version. Choose another --workdir."
                )
            for i, variable in enumerate(variables):
                variable.assign(state[f"{i:05d}"])
        return progress

    def save_model(self, model: keras.Model, name: str) -> None:
        """Writes `name.keras`, in the place of the last one."""
        path = self.path / f"{name}.keras"
        # Keras wants the ending.
        with replacing(path) as temporary:
            model.save(temporary)

    def save_history(self, history: list[dict[str, Any]]) -> None:
        """Writes log.csv: a row an interval."""
        text = io.StringIO()
        columns = list(dict.fromkeys(key for row in history for key in row))
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_text(self.path / "log.csv", text.getvalue())


def _differences(old, new, prefix=""):
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}", a, b
