"""Directory of a run, in which every file is written atomically.

config.json         the config
environment.json    versions, hardware and command
state.npz           everything that is needed to resume from the last checkpoint
state-previous.npz  the state of the checkpoint before, a fallback for a damaged state.npz
log.csv             metrics, one row per checkpoint
tensorboard/        the same metrics for TensorBoard
classes.json        the names of the classes, in the order of the labels
splits.json         the images of each split, if the validation set was split off
trackers.json       the ids of the run in W&B and MLflow, if it is logged there
best.keras          the model with the best validation result
last.keras          the model at the end of the run
*.lora.safetensors  with LoRA, the updates and the head of these two models
results.json        the results at the end of the run
curves.png          learning curves
report.html         the results, the confusions and the most wrong images as a page
predictions.csv     the predictions that the report is computed from
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
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_vit import processes
from keras_vit.atomic_files import PARTIAL, replacing, write_text
from keras_vit.training import config as configs
from keras_vit.training.devices import mesh_in_use
from keras_vit.training.directory_lock import FILES, locked

# Files with the state of a run, the newest first.
STATES = ("state.npz", "state-previous.npz")
# Files that a run writes before its first checkpoint.
STARTED = {
    "classes.json",
    "config.json",
    "environment.json",
    "splits.json",
    "trackers.json",
}
# Keys of a config that describe a run without affecting it.
DESCRIPTIONS = ("about", "command", "hardware", "expected", "measured", "grid")
# Keys that may change between checkpoints: they do not affect the steps of a run, except
# for its duration, which changes the learning rates from there on.
DURATION = ("epochs", "steps")
CHANGEABLE = {*DESCRIPTIONS, "early_stopping", "trackers", *DURATION}


def versions() -> dict[str, str]:
    """Return the versions of the installed packages that a run depends on."""
    packages = (
        *("keras_vit", "keras", "tensorflow", "jax", "torch", "numpy"),
        "tensorflow-datasets",
    )
    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def environment() -> dict[str, Any]:
    """Return the versions, the hardware, the command and the git revision as a dict."""
    devices = None
    with contextlib.suppress(AttributeError):  # Not implemented in Keras under torch.
        devices = keras.distribution.list_devices()
    return {
        "backend": keras.backend.backend(),
        "command": sys.argv,
        "cores": os.cpu_count(),
        "devices": devices,
        "git": _revision(),
        "mesh": mesh_in_use(),
        "python": platform.python_version(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }


def _revision():
    """Return the git revision of the package, or None if it is not a git checkout."""
    root = pathlib.Path(__file__).parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    return subprocess.run(describe, capture_output=True, text=True).stdout.strip() or None


class RunDirectory:
    """Directory of a new run, or of an interrupted run to resume.

    Nothing is written before `record` is called.

    Args:
        path: the directory; `held` creates it if it does not exist.
        config: config of the run as a dict; see `configs.to_dict`.
        resume: None to resume the run if there is one, True to require one, False to
            forbid one.

    Attributes:
        path: the directory.
        progress: the `progress` that was passed to `save_state` for the state that the
            run resumes from; None for a new run.
        before: the config of the run in the directory, which may have another duration;
            None for a new run.
        damage: the reason why the run resumes from the previous state instead of the
            newest one; empty if it does not.

    Raises:
        FileExistsError: the directory contains something other than a run.
    """

    def __init__(
        self, path: str | os.PathLike, config: dict[str, Any], resume: bool | None = None
    ):
        self.path = pathlib.Path(path)
        self.config, self.resume = config, resume
        self._state: pathlib.Path | None = None
        self.progress: dict[str, Any] | None = None
        self.before: configs.Config | None = None
        self.damage = ""
        self._check_not_foreign()

    @contextlib.contextmanager
    def held(self):
        """Lock the directory, and choose the state to resume from.

        Raises:
            FileExistsError: the directory is in use by another process, or it contains
                the run of another config, or any run if `resume=False`.
            FileNotFoundError: `resume=True`, and there is no run.
            ValueError: all states of the run are damaged, or it was trained under
                another backend.
        """
        first = processes.is_first()
        with locked(self.path) if first else contextlib.nullcontext():
            names = self._check_not_foreign()
            started, has_state = "config.json" in names, names & set(STATES)
            if self.resume and not started:
                raise FileNotFoundError(f"--resume: there is no run in {self.path}.")
            # A run without a checkpoint may be replaced by a run of another config.
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
        """Write the config and the environment, after all checks have passed."""
        if not processes.is_first():
            return
        found = environment()
        if extensions := self._extensions():
            found["extensions"] = extensions
        write_text(self.path / "environment.json", json.dumps(found, indent=1))
        if self.before is not None and not same_results(
            configs.to_dict(self.before), self.config
        ):
            (self.path / "results.json").unlink(missing_ok=True)
        # Written last, so that a directory with config.json also has environment.json.
        write_text(self.path / "config.json", json.dumps(self.config, indent=1))
        if self.damage:
            # Replace the damaged state, which would otherwise become the fallback when
            # the next state is written.
            os.replace(self.path / STATES[1], self.path / STATES[0])

    def _check_not_foreign(self):
        """Return the names of the files in the directory, if it is empty or has a run."""
        if self.path.exists() and not self.path.is_dir():
            raise FileExistsError(f"{self.path} is a file; choose another --workdir.")
        names = set(os.listdir(self.path)) if self.path.exists() else set()
        names = {n for n in names - FILES if not n.startswith(PARTIAL)}
        # A config.json alone may belong to a checkpoint in the Hugging Face format.
        is_run = {"config.json", "environment.json"} <= names
        if not is_run and names - {"environment.json", "trackers.json"}:
            raise FileExistsError(
                f"{self.path} is not empty and holds no run; choose another --workdir."
            )
        return names

    def _check_same(self):
        # A config from an older version may lack keys, which get their defaults.
        self.before = configs.from_dict(_read_json(self.path / "config.json"))
        if changed := changes(configs.to_dict(self.before), self.config):
            raise FileExistsError(
                f"{self.path} holds the run of another config ({'; '.join(changed)}). "
                "Choose another --workdir. Only epochs and steps may grow, and "
                "early_stopping and trackers may change."
            )

    def duration_before(self) -> dict[str, Any]:
        """Return the earlier values of `epochs` and `steps` that change now."""
        if self.before is None:
            return {}
        before = {key: getattr(self.before, key) for key in DURATION}
        return {key: value for key, value in before.items() if value != self.config[key]}

    def _extensions(self):
        """Return the list of changes of the duration of the run, including a new one."""
        path = self.path / "environment.json"
        found = _read_json(path).get("extensions", []) if path.exists() else []
        if before := self.duration_before():
            after = {key: self.config[key] for key in before}
            row = {"checkpoint": self.checkpoints(), "before": before, "after": after}
            # A run that is killed before it writes its config makes the change again.
            found = [*(old for old in found if old != row), row]
        return found

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
        """Return the path and the progress of the newest state that is intact."""
        reasons = []
        for name in STATES:
            path = self.path / name
            if not path.exists():
                reasons.append(f"{path} is missing")
                continue
            try:
                progress = _checked_progress(path)
            # zipfile, zlib and NumPy raise errors of many classes for damaged files.
            except Exception as error:
                reasons.append(f"{path} is damaged ({type(error).__name__}: {error})")
                continue
            self.damage = "".join(reasons)
            return path, progress
        there = " and ".join(n for n in STATES if (self.path / n).exists())
        raise ValueError(
            f"The run cannot be resumed: {'; '.join(reasons)}. Remove {there} to start "
            "from the first step. Copy best.keras first if you need its weights."
        )

    def checkpoints(self) -> int:
        """Return the number of checkpoints in the state that the run resumes from."""
        return len(self.progress["history"]) if self.progress else 0

    def steps_begun(self) -> int:
        """Return the number of steps after the last of these checkpoints."""
        return (self.progress or {}).get("begun", {}).get("steps", 0)

    def save_state(self, variables: list, progress: dict[str, Any]) -> None:
        """Save the state of the run, and keep the state before it as a fallback.

        Args:
            variables: list of all variables that training changes.
            progress: dict of further values to restore, in types of JSON.
        """
        if not processes.is_first():
            for variable in variables:
                processes.whole(variable)  # The first process asks for its parts.
            return
        described = [
            [variable.path, list(variable.shape), str(variable.dtype)]
            for variable in variables
        ]
        text = json.dumps({"variables": described, **progress})
        state, previous = (self.path / name for name in STATES)
        with replacing(state) as temporary:
            _write_arrays(temporary, np.array(text), variables)
            if state.exists():
                _keep(state, previous)

    def load_state(self, variables: list) -> dict[str, Any] | None:
        """Restore the variables from the state that the run resumes from.

        Args:
            variables: list of variables as passed to `save_state`.

        Returns:
            The `progress` that was passed to `save_state`, or None for a new run.

        Raises:
            ValueError: the saved variables have other shapes or dtypes.
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
        """Write a model to `name.keras`, atomically replacing any earlier one.

        Args:
            model: the model.
            name: name of the file without `.keras`.
        """
        path = self.path / f"{name}.keras"
        # The temporary path has the suffix .keras too, which Keras requires.
        with replacing(path) as temporary:
            model.save(temporary)

    def save_history(self, history: list[dict[str, Any]]) -> None:
        """Write log.csv.

        Args:
            history: list of rows, one per checkpoint, with values by metric.
        """
        text = io.StringIO()
        columns = list(dict.fromkeys(key for row in history for key in row))
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_text(self.path / "log.csv", text.getvalue())


def _write_arrays(path, progress, variables):
    """Write the file that `np.savez` would write, one variable after the other.

    A variable that is split over devices or processes is gathered when it is written, so
    that the host needs memory for one at a time.
    """
    with zipfile.ZipFile(path, "w") as archive:

        def write(name, array):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)

        write("progress", progress)
        for i, variable in enumerate(variables):
            write(f"{i:05d}", processes.whole(variable))


def _checked_progress(path):
    """Verify the checksums of a state file and return its progress."""
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
    """Add a second name for a state file, so that it survives its replacement."""
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
        raise ValueError(f"{path} does not belong to a run; choose another --workdir.")
    return found


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return texts about values that differ although they must not within a run.

    Args:
        before: the config of a run as a dict.
        after: another config.
    """
    return [
        f"{key}: {a!r} there, {b!r} here"
        for key, a, b in differences(before, after)
        if key.partition(".")[0] not in CHANGEABLE
    ]


def same_results(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Return whether a finished run of one config is one of another config, too.

    Args:
        before: the config of a run as a dict.
        after: another config.
    """
    changed = {key.partition(".")[0] for key, *_ in differences(before, after)}
    return changed <= {*DESCRIPTIONS, "trackers"}


def differences(
    old: dict[str, Any], new: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Yield the keys of two nested dicts whose values differ, with both values.

    Args:
        old: a config as a dict.
        new: another one.
        prefix: text before the keys.
    """
    for key in dict.fromkeys([*old, *new]):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from differences(a, b, f"{prefix}{key}.")
        elif a != b:
            yield f"{prefix}{key}", a, b
