"""Error reports, output directories and lookup of runs, shared by several commands."""

import argparse
import contextlib
import json
import pathlib
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from keras_vit import processes
from keras_vit.atomic_files import write_text
from keras_vit.cli.extras import install_command
from keras_vit.data.host import tensorflow
from keras_vit.data.source import Source
from keras_vit.export.staging import disk_is_full
from keras_vit.training import config as configs
from keras_vit.training import devices, dry_run, networks
from keras_vit.training.directory_lock import locked
from keras_vit.training.image_sets import check_data
from keras_vit.training.preemption import Preempted
from keras_vit.training.starting_point import checkpoint_file, config_of, run_of

UNSPECIFIED = configs.Config(
    about="Evaluation.",
    command="keras-vit evaluate ...",
    hardware="any",
    expected="the published accuracy",
    data=configs.Data(train="", validation="", test=None),
)


def at_image_size(model: Any, options: argparse.Namespace) -> Any:
    """Return a model for images of the size `--image-size`, or as it is without it.

    Args:
        model: a `keras_vit.ViT`.
        options: the parsed options.
    """
    if options.image_size is None:
        return model
    return model.resized((*options.image_size, model.input_shape[-1]))


def settings(options: argparse.Namespace) -> list[str]:
    """Return the options that change a config as settings for `configs.override`.

    Args:
        options: the parsed options: `--set`, `--data-dir` and, in some commands,
            `--epochs`.
    """
    short = []
    if options.data_dir is not None:
        short += [f"data.data_dir={options.data_dir}"]
    if getattr(options, "epochs", None) is not None:
        short += [f"epochs={options.epochs}", "steps=None"]
    return [*short, *options.settings]


def train(
    options: argparse.Namespace,
    configured: Callable[[str], configs.Config],
    start: Callable[..., Any],
) -> None:
    """Run a training command whose images are those of the config.

    Args:
        options: the parsed options.
        configured: function that returns the config for `options.what`.
        start: function that trains, such as `runs.train`.
    """
    with reported(options.workdir):
        config = configs.override(configured(options.what), settings(options))
        check_data(config, settings(options))
        if options.dry_run:
            dry_run.report(config)
        else:
            start(config, options.workdir, options.resume)
            write_report(options.workdir, config)


def write_report(
    workdir: str, config: configs.Config, sources: Mapping[str, Source] | None = None
) -> None:
    """Write report.html and predictions.csv of a run that has ended.

    Args:
        workdir: directory of the run.
        config: config of the run.
        sources: dict of its data sets, if they are open already.
    """
    with devices.alone():  # The other processes do not wait for the report.
        processes.leave()
        if processes.is_first():
            # Needs matplotlib and scikit-learn, which most commands do not.
            from keras_vit.evaluation.report import write_run_report

            write_run_report(workdir, config, sources)


@contextlib.contextmanager
def reported(workdir: str | None = None) -> Iterator[None]:
    """Report errors that the user can fix, and Ctrl-C, in one line and exit.

    Other errors are bugs and are raised with their traceback.

    Args:
        workdir: the directory that the command writes to, if any.
    """
    try:
        yield
    except KeyboardInterrupt as interruption:
        print(str(interruption) or "interrupted", file=sys.stderr)
        # The exit status that shells report for the signal.
        stop = signal.SIGTERM if isinstance(interruption, Preempted) else signal.SIGINT
        sys.exit(128 + stop)
    except Exception as error:
        reason = str(error)
        if workdir and disk_is_full(error):
            reason = (
                f"no space left to write to {workdir}. The files written before are "
                "intact: free some space and run the same command again. A training run "
                "resumes from its last checkpoint."
            )
        elif lost := processes.loss_of_process(error):
            reason = lost
        elif not isinstance(error, OSError | ValueError | ImportError):
            reason = _reading_error(error)
        elif remedy := install_command(error):
            reason = f"{reason}. {remedy}"
        if reason is None:
            raise
        sys.exit(f"error: {reason}")


@contextlib.contextmanager
def writing(workdir: str | None) -> Iterator[None]:
    """Report errors like `reported`, and lock the output directory, if there is one.

    Of several processes, the first one locks it.

    Args:
        workdir: the directory that the command writes to, or None.
    """
    held = workdir if processes.is_first() else None
    with reported(workdir), locked(held) if held else contextlib.nullcontext():
        yield


def _reading_error(error):
    """Return the data pipeline's message about an image or a label, or None."""
    if not isinstance(error, tensorflow().errors.OpError):
        return None
    # TensorFlow embeds the message of a Python error in its own, with the traceback.
    reason = r"^ValueError: (.*)$|(Labels must be .*)"
    found = re.search(reason, error.message, flags=re.MULTILINE)
    return found and (found[1] or found[2])


def chosen_file(checkpoint: str) -> str:
    """Return the file of a checkpoint, and print it if a run stands for its best model.

    Args:
        checkpoint: a checkpoint, or the directory of a run.
    """
    file = checkpoint_file(checkpoint)
    if file != checkpoint:
        print(f"model: {file}", flush=True)
    return file


def head_of(checkpoint: str) -> dict[str, Any]:
    """Return the arguments that set the activation of a run's model by its loss.

    Older versions saved the models of all runs with logits as output.

    Args:
        checkpoint: a checkpoint, or the directory of a run.

    Returns:
        Arguments for `load_checkpoint`; empty if the checkpoint belongs to no run.
    """
    run = run_of(checkpoint)
    names = ("best.keras", "last.keras")
    if run is None or pathlib.Path(checkpoint_file(checkpoint)).name not in names:
        return {}
    config = configs.load(str(run / "config.json"))
    if config.objective != "classification":
        return {}
    return {"classifier_activation": networks.activation(config)}


def exif_of(checkpoint: str) -> bool:
    """Return whether images are rotated upright by EXIF, as in the run of a checkpoint.

    Args:
        checkpoint: a checkpoint, or the directory of a run.
    """
    return config_of(checkpoint, UNSPECIFIED).data.exif


def evaluation_config(options: argparse.Namespace) -> configs.Config:
    """Return the config of a command that trains nothing, with the values of `--set`.

    Args:
        options: the parsed options of a command that takes a config.
    """
    return configs.override(config_of(options.what, UNSPECIFIED), settings(options))


def trained_config(options: argparse.Namespace) -> configs.Config:
    """Return the config of a command that needs a trained model.

    Args:
        options: the parsed options of a command that takes a config.

    Raises:
        ValueError: it is a config without weights.
    """
    config = evaluation_config(options)
    if config.model.weights is None:
        raise ValueError(
            f"{options.what} is a config without model.weights: pass the directory of "
            "its run, or a checkpoint."
        )
    return config


def write_results(
    path: pathlib.Path, what: str, config: configs.Config, results: dict[str, Any]
) -> None:
    """Write results as JSON, after what they are of and the config.

    Args:
        path: the file.
        what: the model that was measured.
        config: the config.
        results: the results.
    """
    whole = {"of": what, "config": configs.to_dict(config), **results}
    write_text(path, json.dumps(whole, indent=1))
