"""Argument parsing, error reports and lookup of runs, shared by several commands."""

import argparse
import contextlib
import json
import pathlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from keras_vit.atomic_files import write_text
from keras_vit.cli.extras import install_command
from keras_vit.data.host import tensorflow
from keras_vit.data.source import Source
from keras_vit.export.staging import disk_is_full
from keras_vit.training import config as configs
from keras_vit.training import dry_run, objectives
from keras_vit.training.directory_lock import locked
from keras_vit.training.starting_point import checkpoint_file, config_of, run_of

UNSPECIFIED = configs.Config(
    about="Evaluation.",
    command="keras-vit evaluate ...",
    hardware="any",
    expected="the published accuracy",
    data=configs.Data(train="", validation="", test=None),
)


def parser(
    name: str, doc: str | None, what: str, workdir: str
) -> argparse.ArgumentParser:
    """Return a parser with the arguments of the commands that take a config.

    Args:
        name: name of the command, such as `"pretrain"`.
        doc: docstring of its module, which becomes the description in its help.
        what: name of its positional argument in the help.
        workdir: help text of `--workdir`.
    """
    made = argparse.ArgumentParser(
        prog=f"keras-vit {name}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("what", metavar=what)
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="change a value of the config, for example optimization.learning_rate=3e-4",
    )
    made.add_argument(
        "--data-dir",
        metavar="DIR",
        help="directory of the TFDS data sets; short for --set data.data_dir=DIR",
    )
    made.add_argument("--workdir", metavar="DIR", help=workdir)
    return made


def add_features(made: argparse.ArgumentParser) -> None:
    """Add the options that choose and keep features: `--block` and `--features`.

    Args:
        made: the parser.
    """
    made.add_argument(
        "--block",
        type=int,
        metavar="N",
        help="use the class token of block N, or its mean patch if there is none; -1 is "
        "the last block (default: the input of the head)",
    )
    made.add_argument(
        "--features",
        metavar="DIR",
        help="keep the features in this directory, and look them up there",
    )


def add_image_size(made: argparse.ArgumentParser) -> None:
    """Add the option `--image-size`.

    Args:
        made: the parser.
    """
    made.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="size of the images that the model takes; positions are resized to it",
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
    """Return the values of `--set` and `--data-dir` as settings for `configs.override`.

    Args:
        options: the parsed options.
    """
    directory = options.data_dir
    return [*([f"data.data_dir={directory}"] if directory else []), *options.settings]


def run(
    made: argparse.ArgumentParser,
    arguments: Sequence[str] | None,
    configured: Callable[[argparse.Namespace], configs.Config],
    start: Callable[..., Any],
    with_photos: Callable[..., None] | None = None,
) -> None:
    """Add the options `--resume` and `--dry-run` to a parser and run a training command.

    Args:
        made: the parser of the command.
        arguments: arguments of the command; by default, those of the process.
        configured: function that returns the config for the parsed options.
        start: function that trains, such as `runs.train`.
        with_photos: function that runs the command if it has the option `--data`.
    """
    made.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="require a run to resume, or forbid one (default: resume if there is one)",
    )
    made.add_argument(
        "--dry-run",
        action="store_true",
        help="print the config, variables, operations, memory and time per step without "
        "writing anything",
    )
    options = made.parse_args(arguments)
    if with_photos is not None and options.data is not None:
        with reported(options.workdir):
            with_photos(made, options, configured(options))
        return
    if options.workdir is None and not options.dry_run:
        made.error("--workdir is required, except with --dry-run")
    with reported(options.workdir):
        config = configs.override(configured(options), settings(options))
        configs.check_data(config, settings(options))
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
        sys.exit(130)  # The exit status that shells report for SIGINT.
    except Exception as error:
        reason = str(error)
        if workdir and disk_is_full(error):
            reason = (
                f"no space left to write to {workdir}. The files written before are "
                "intact: free some space and run the same command again. A training run "
                "resumes from its last checkpoint."
            )
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

    Args:
        workdir: the directory that the command writes to, or None.
    """
    with reported(workdir), locked(workdir) if workdir else contextlib.nullcontext():
        yield


def _reading_error(error):
    """Return the data pipeline's message about an image or a label, or None."""
    if not isinstance(error, tensorflow().errors.OpError):
        return None
    # TensorFlow embeds the message of a Python error in its own, with the traceback.
    reason = r"^ValueError: (.*)$|(Labels must be .*)"
    found = re.search(reason, error.message, flags=re.MULTILINE)
    return found and (found[1] or found[2])


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
    return {"classifier_activation": objectives.activation(config)}


def evaluation_config(options: argparse.Namespace) -> configs.Config:
    """Return the config of a command that trains nothing, with the values of `--set`.

    Args:
        options: the parsed options of a parser that `parser` returned.
    """
    return configs.override(config_of(options.what, UNSPECIFIED), settings(options))


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
