"""Trackers: callbacks that log the metrics of a run for TensorBoard, W&B or MLflow."""

import contextlib
import importlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence

import keras

from keras_vit import processes
from keras_vit.atomic_files import write_text
from keras_vit.choices import check_choice
from keras_vit.data.host import tensorflow
from keras_vit.training import config as configs

# The modules that the trackers need, with the names that pip installs.
LIBRARIES = {
    "mlflow": ("mlflow.keras", "mlflow"),
    "tensorboard": ("tensorboard", "'keras_vit[train]'"),
    "wandb": ("wandb.integration.keras", "wandb"),
}
# Name of the project in W&B and of the experiment in MLflow, unless WANDB_PROJECT or
# MLFLOW_EXPERIMENT_NAME names another one.
PROJECT = "keras_vit"
# File in the directory of a run with its ids, by tracker, for the run to resume.
IDS = "trackers.json"


def check(names: Sequence[str]) -> None:
    """Check that trackers exist and that their libraries are installed.

    Args:
        names: names of the trackers.

    Raises:
        ValueError: a name is unknown.
        ImportError: a library is missing; the message has the command that installs it.
    """
    for name in names:
        check_choice("tracker", name, LIBRARIES)
        library, package = LIBRARIES[name]
        try:
            importlib.import_module(library)
        except ModuleNotFoundError as error:
            raise ImportError(
                f"The tracker {name!r} needs a library that is not installed ({error}): "
                f"run pip install {package}, or remove {name!r} from trackers."
            ) from None


@contextlib.contextmanager
def tracking(
    directory: pathlib.Path, config: configs.Config
) -> Iterator[list[keras.callbacks.Callback]]:
    """Open the trackers of a run, and close them when the run ends.

    A run of W&B or MLflow that is active already is used and left open.

    Args:
        directory: directory of the run.
        config: config of the run, with the names of the trackers.
    """
    opened = {"mlflow": _mlflow, "tensorboard": _tensorboard, "wandb": _wandb}
    with contextlib.ExitStack() as stack:
        names = config.trackers if processes.is_first() else ()
        yield [opened[name](directory, config, stack) for name in names]


class TensorBoard(keras.callbacks.Callback):
    """Callback that logs the metrics of every checkpoint for TensorBoard.

    Keras's own callback counts epochs, which are checkpoints here, instead of steps.

    Args:
        directory: directory of the event files.
    """

    def __init__(self, directory: pathlib.Path):
        super().__init__()
        self.directory = directory

    def on_epoch_end(self, epoch, logs=None):
        tf, logs = tensorflow(), dict(logs or {})
        writer = tf.summary.create_file_writer(str(self.directory))
        with writer.as_default(step=int(logs.pop("step"))):
            for name, value in logs.items():
                tf.summary.scalar(name, value)
        writer.close()


def _tensorboard(directory, config, stack):
    return TensorBoard(directory / "tensorboard")


def _wandb(directory, config, stack):
    import wandb
    from wandb.integration.keras import WandbMetricsLogger

    if wandb.run is None:
        try:
            run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                name=directory.resolve().name,
                config=configs.to_dict(config),
                id=_id_of_run(directory, "wandb"),
                resume="allow",
            )
        except wandb.Error as error:
            raise ValueError(f"The tracker 'wandb' cannot start: {error}") from None
        stack.enter_context(run)
        _keep_id(directory, "wandb", run.id)
    return WandbMetricsLogger()


def _mlflow(directory, config, stack):
    import mlflow

    run = mlflow.active_run()
    if run is None:
        try:
            if "MLFLOW_EXPERIMENT_NAME" not in os.environ:
                mlflow.set_experiment(PROJECT)
            name = directory.resolve().name
            run = mlflow.start_run(_id_of_run(directory, "mlflow"), run_name=name)
        except mlflow.MlflowException as error:
            raise ValueError(f"The tracker 'mlflow' cannot start: {error}") from None
        stack.enter_context(run)
        _keep_id(directory, "mlflow", run.info.run_id)
    mlflow.log_dict(configs.to_dict(config), "config.json")
    return mlflow.keras.MlflowCallback(run)


def _ids(directory):
    path = directory / IDS
    return json.loads(path.read_text()) if path.exists() else {}


def _id_of_run(directory, name):
    """Return the id of the run in a tracker, or None for a new run."""
    return _ids(directory).get(name)


def _keep_id(directory, name, value):
    ids = {**_ids(directory), name: value}
    write_text(directory / IDS, json.dumps(ids, indent=1))
