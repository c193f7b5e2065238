"""Options of the commands that train: `pretrain` and `finetune`."""

import argparse
from collections.abc import Sequence

from keras_vit.cli.parsers import shared


def parse(name: str, doc: str, what: str, words: Sequence[str]) -> argparse.Namespace:
    """Return the options of a command that trains.

    Args:
        name: name of the command.
        doc: description of the command in its help.
        what: name of its positional argument in the help.
        words: the arguments of the command.
    """
    made = shared.parser(name, doc, what, "directory of the run")
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
    made.add_argument(
        "--epochs",
        type=int,
        metavar="N",
        help="passes over the training images; short for --set epochs=N --set "
        "steps=None. A larger N makes an existing run longer",
    )
    _add_photos(made)
    options = shared.parse_with_devices(made, words, processes=True)
    saved = options.data and options.save_config
    if options.data is None:
        _check_no_photos(made, options)
    if options.workdir is None and not options.dry_run and not saved:
        others = " or --save-config" if options.data else ""
        made.error(f"--workdir is required, except with --dry-run{others}")
    if saved and not saved.endswith(".py"):
        made.error(f"--save-config takes the name of a .py file; received {saved}.")
    return options


def _check_no_photos(made, options):
    """Refuse options that would have no effect without `--data`."""
    for name in ("path", "label"):
        if getattr(options, f"{name}_column") is not None:
            made.error(
                f"--{name}-column goes with --data; without it, use --set "
                f"data.{name}_column=NAME."
            )
    if options.save_config is not None:
        made.error("--save-config goes with --data.")


def _add_photos(made):
    """Add the options for a user's own photos."""
    made.add_argument(
        "--data",
        metavar="PHOTOS",
        help="train on these images: a folder with one folder for each class, a folder "
        "with train/, val/ and test/ in it, a CSV or Parquet file of paths and labels, "
        "a directory of Hugging Face's datasets, or tfds:NAME",
    )
    for name, default in (("path", "path"), ("label", "label")):
        made.add_argument(
            f"--{name}-column",
            metavar="NAME",
            help=f"with a table as --data: name of the column of the {default}s; short "
            f"for --set data.{name}_column=NAME",
        )
    made.add_argument(
        "--yes",
        action="store_true",
        help="with --data: start without a question",
    )
    made.add_argument(
        "--save-config",
        metavar="FILE.py",
        help="with --data: write the config to a file, to edit and to run; without "
        "--workdir, do not train",
    )
