"""Options that several commands share."""

import argparse
from collections.abc import Sequence

AXES = ("data", "model")


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
    add_settings(made)
    made.add_argument(
        "--data-dir",
        metavar="DIR",
        help="directory of the TFDS data sets; short for --set data.data_dir=DIR",
    )
    made.add_argument("--workdir", metavar="DIR", help=workdir)
    return made


def add_settings(made: argparse.ArgumentParser) -> None:
    """Add the option `--set`.

    Args:
        made: the parser.
    """
    made.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="change a value of the config, for example optimization.learning_rate=3e-4",
    )


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


def parse_with_devices(
    made: argparse.ArgumentParser, words: Sequence[str], processes: bool = False
) -> argparse.Namespace:
    """Add the options that choose devices to a parser, and return the parsed options.

    They become `mesh` and `fully_sharded`, the arguments of `training.distributed`.

    Args:
        made: the parser, with all other options.
        words: the arguments of the command.
        processes: bool, whether several processes can run the command together. The
            options that join them are then added too.
    """
    group = made.add_mutually_exclusive_group()
    group.add_argument(
        "--devices",
        type=_devices,
        dest="mesh",
        metavar="N",
        help="split every batch over N devices (default: one device); needs JAX",
    )
    group.add_argument(
        "--mesh",
        type=_mesh,
        metavar="data=N,model=N",
        help="split every batch over `data`, and the weights of each layer over `model` "
        "devices; needs JAX",
    )
    made.add_argument(
        "--fully-sharded",
        action="store_true",
        help="split weights and optimizer over the devices of `data` too; needs JAX",
    )
    if processes:
        _add_processes(made)
    options = made.parse_args(words)
    if processes:
        _check_processes(made, options)
    several = options.mesh is not None or getattr(options, "coordinator", None)
    if options.fully_sharded and not several:
        made.error("--fully-sharded needs --devices, --mesh or several processes")
    return options


def _add_processes(made):
    """Add the options that join several processes; see `keras_vit.processes`."""
    made.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="work in several processes that meet at this address of the first one; "
        "auto under SLURM, Open MPI or on a cloud TPU; needs JAX",
    )
    made.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="with --coordinator HOST:PORT: number of processes",
    )
    made.add_argument(
        "--process",
        type=int,
        metavar="I",
        help="with --coordinator HOST:PORT: number of this process, from 0",
    )


def _check_processes(made, options):
    count, index = options.processes, options.process
    if options.coordinator in (None, "auto"):
        if count is not None or index is not None:
            made.error("--processes and --process need --coordinator HOST:PORT")
    elif count is None or index is None:
        made.error("--coordinator HOST:PORT needs --processes and --process")
    elif not 0 <= index < count:
        made.error(f"--process must be 0 to {count - 1}; received {index}")


def _devices(text):
    return {"data": _count(text)}


def _mesh(text):
    mesh = {}
    for part in text.split(","):
        name, _, count = part.partition("=")
        if name not in AXES or name in mesh:
            raise argparse.ArgumentTypeError(
                f"expected data=N, model=N or both; received {text!r}"
            )
        mesh[name] = _count(count)
    return {"data": 1, **mesh}


def _count(text):
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(
            f"the number of devices must be 1 or more; received {text!r}"
        )
    return int(text)


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
