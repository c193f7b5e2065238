"""The directory of a run: what is in it, and how a kill at any moment leaves it whole.

config.json, environment.json    what ran, on what
state.npz                        all that a resumed run needs, at the last checkpoint
state-previous.npz               the same at the checkpoint before, should it be damaged
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
import shutil
import subprocess
import sys
import zipfile
from typing import Any

import keras
import numpy as np

from keras_vit.training import config as configs
from keras_vit.training.directory_lock import FILES, locked

# The newest first.
STATES = ("state.npz", "state-previous.npz")
# What a start writes before its first checkpoint.
STARTED = {"config.json", "environment.json", "classes.json"}
PARTIAL = ".partial-"
# Keys of a config that describe a run and do not change it.
DESCRIPTIONS = ("about", "command", "hardware", "expected", "measured")


@contextlib.contextmanager
def replacing(path: pathlib.Path):
    """A path to write to; what is written takes `path`'s place when it is on disk."""
    temporary = path.with_name(f"{PARTIAL}{path.name}")
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
    packages = (
        *("keras_vit", "keras", "tensorflow", "jax", "torch", "numpy"),
        "tensorflow-datasets",
    )
    versions = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    devices = None
    with contextlib.suppress(AttributeError):  # Keras has no such list under torch.
        devices = keras.distribution.list_devices()
    return {
        "backend": keras.backend.backend(),
        "command": sys.argv,
        "cores": os.cpu_count(),
        "devices": devices,
        "git": _revision(),
        "python": platform.python_version(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions,
    }


def _revision():
    """Return the git revision of the package, or None outside a checkout of it."""
    root = pathlib.Path(__file__).parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    return subprocess.run(describe, capture_output=True, text=True).stdout.strip() or None


class RunDirectory:
    """A new directory, or one that holds an earlier part of the same run.

    Nothing is written before `record`.

    Args:
        path: the directory; `held` creates it where it does not exist.
        config: of the run, as plain dicts.
        resume: None to resume a run where there is one, True to insist on one, False for
            a new run only.

    Attributes:
        path: as given.
        progress: what `save_state` was told for the state that the run resumes from;
            None for a new run.
        damage: why that is not the newest state; empty where it is.

    Raises:
        FileExistsError: the directory holds something other than a run.
    """

    def __init__(
        self, path: str | os.PathLike, config: dict[str, Any], resume: bool | None = None
    ):
        self.path = pathlib.Path(path)
        self.config, self.resume = config, resume
        self._state: pathlib.Path | None = None
        self.progress: dict[str, Any] | None = None
        self.damage = ""
        self._check_not_foreign()

    @contextlib.contextmanager
    def held(self):
        """Keep other processes out of the directory, and choose the state to resume from.

        Raises:
            FileExistsError: another process writes there; the directory holds the run of
                another config, or a run although `resume=False`.
            FileNotFoundError: `resume=True`, and there is no run.
            ValueError: every state of the run is damaged, or the run was trained under
                another backend.
        """
        with locked(self.path):
            names = self._check_not_foreign()
            started, has_state = "config.json" in names, names & set(STATES)
            if self.resume and not started:
                raise FileNotFoundError(f"--resume: there is no run in {self.path}.")
            # Before the first checkpoint another config may take the directory.
            if started and (self.resume or not names <= STARTED):
                self._check_same()
            if has_state:
                self._check_backend()
                if self.resume is False:
                    raise FileExistsError(
                        f"{self.path} holds a run of this config. Choose another "
                        "--workdir, or leave --no-resume out to resume it."
                    )
                self._state, self.progress = self._whole_state()
            yield self

    def record(self) -> None:
        """Write what runs, and on what; to be called when every check has passed."""
        write_text(self.path / "environment.json", json.dumps(environment(), indent=1))
        # Last: a directory with a config.json has both.
        write_text(self.path / "config.json", json.dumps(self.config, indent=1))
        if self.damage:
            # Only a whole state may be kept beside the next one.
            os.replace(self.path / STATES[1], self.path / STATES[0])

    def _check_not_foreign(self):
        """Return the names of the files of a run, or of what may become one."""
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"{self.path} is a file; choose another --workdir.")
        names = set(os.listdir(self.path)) if self.path.exists() else set()
        names = {n for n in names - FILES if not n.startswith(PARTIAL)}
        # A config.json alone may be that of a Hugging Face repository.
        is_run = {"config.json", "environment.json"} <= names
        if not is_run and names - {"environment.json"}:
            raise FileExistsError(
                f"{self.path} is not empty and holds no run; choose another --workdir."
            )
        return names

    def _check_same(self):
        # A config of an older version has fewer keys; they had the defaults.
        old = _read_json(self.path / "config.json")
        old = configs.to_dict(configs.from_dict(old))
        changed = {
            key: f"{key}: {a!r} there, {b!r} here"
            for key, a, b in _differences(old, self.config)
            if key.partition(".")[0] not in DESCRIPTIONS
        }
        if not changed:
            return
        remedy = "Choose another --workdir."
        if set(changed) <= {"epochs", "steps"}:
            last = self.path / "last.keras"
            remedy = (
                "The learning-rate schedule spans the whole run, so a longer run differs "
                "from its first step on: choose another --workdir for it. Or train the "
                "weights of this run further, with a schedule of their own: the same "
                f"command with --set model.weights={last}, "
                "--set model.arguments.head=keep, another --workdir, and as epochs those "
                "to add."
            )
        raise FileExistsError(
            f"{self.path} holds the run of another config "
            f"({'; '.join(changed.values())}). {remedy}"
        )

    def _check_backend(self):
        path, backend = self.path / "environment.json", keras.backend.backend()
        before = _read_json(path).get("backend") if path.exists() else None
        if before not in (None, backend):
            raise ValueError(
                f"The run in {self.path} was trained under the backend {before!r}; this "
                f"is {backend!r}. Set KERAS_BACKEND={before} to resume it, or choose "
                "another --workdir."
            )

    def _whole_state(self):
        """Return the path and the progress of the newest state that is not damaged."""
        reasons = []
        for name in STATES:
            path = self.path / name
            if not path.exists():
                reasons.append(f"{path} is missing")
                continue
            try:
                progress = _checked_progress(path)
            # zipfile, zlib and NumPy raise errors of a dozen types for damaged files.
            except Exception as error:
                reasons.append(f"{path} is damaged ({type(error).__name__}: {error})")
                continue
            self.damage = "".join(reasons)
            return path, progress
        there = " and ".join(n for n in STATES if (self.path / n).exists())
        raise ValueError(
            f"The run cannot be resumed: {'; '.join(reasons)}. Remove {there} to start "
            "it from its first step. best.keras holds its best weights until then."
        )

    def checkpoints(self) -> int:
        """Return the number of checkpoints in the state that the run resumes from."""
        return len(self.progress["history"]) if self.progress else 0

    def save_state(self, variables: list, progress: dict[str, Any]) -> None:
        """Write all that a resumed run needs; the state before it is kept beside it."""
        arrays = {
            f"{i:05d}": keras.ops.convert_to_numpy(variable.value)
            for i, variable in enumerate(variables)
        }
        described = [
            [variable.path, list(variable.shape), str(variable.dtype)]
            for variable in variables
        ]
        text = json.dumps({"variables": described, **progress})
        state, previous = (self.path / name for name in STATES)
        with replacing(state) as temporary:
            with open(temporary, "wb") as file:
                np.savez(file, progress=np.array(text), **arrays)
            if state.exists():
                _keep(state, previous)

    def load_state(self, variables: list) -> dict[str, Any] | None:
        """Assign the state that the run resumes from; return what `save_state` was told.

        None where there is no state yet.
        """
        if self.progress is None or self._state is None:
            return None
        progress = dict(self.progress)
        described = [
            [list(variable.shape), str(variable.dtype)] for variable in variables
        ]
        if [row[1:] for row in progress.pop("variables")] != described:
            raise ValueError(
                f"{self._state} has other variables than the model and the optimizer: it "
                "was written by another version. Choose another --workdir."
            )
        with np.load(self._state) as state:
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


def _checked_progress(path):
    """Return the progress of a state, every byte of which is read and verified."""
    with zipfile.ZipFile(path) as archive:
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"the checksum of {damaged} is wrong")
        names = set(archive.namelist())
    with np.load(path) as state:
        progress = json.loads(str(state["progress"]))
    for key in ("variables", "history"):
        if not isinstance(progress[key], list):
            raise TypeError(f"{key} must be a list; received {progress[key]!r}")
    expected = {f"{i:05d}.npy" for i in range(len(progress["variables"]))}
    if missing := expected - names:
        raise ValueError(f"{', '.join(sorted(missing)[:5])} are missing")
    return progress


def _keep(state, previous):
    """Give a state a second name, so that it outlives its replacement."""
    with replacing(previous) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(state, temporary)
        except OSError:  # The file system has no hard links.
            shutil.copyfile(state, temporary)


def _read_json(path):
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}); choose another --workdir."
        ) from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is of no run; choose another --workdir.")
    return found


def _differences(old, new, prefix=""):
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}", a, b
