"""Options that several commands share."""

import argparse


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
