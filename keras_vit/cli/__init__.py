"""The command `keras-vit`.

Importing Keras takes seconds, and `--help` and errors in the arguments must not wait for
it. Every command therefore has two modules. `keras_vit.cli.parsers.pretrain` parses the
arguments of `keras-vit pretrain` and imports neither Keras nor a backend; afterwards
`keras_vit.cli.pretrain` is imported and runs the command.
"""

import argparse
import functools
import importlib
import io
import os
import sys
from collections.abc import Sequence

import keras_vit
from keras_vit.cli import huge_pages, interrupts, matrix_products, process
from keras_vit.cli.extras import install_command
from keras_vit.cli.quiet_start import quiet_start

COMMANDS = {
    "new-config": "print a config as a Python file to start from",
    "pretrain": "train a model from random weights, with or without labels",
    "finetune": "train from a checkpoint, with other classes or at another size",
    "evaluate": "measure the accuracy of a checkpoint or an export",
    "predict": "classify image files",
    "probe": "fit a linear classifier to the features of a model",
    "knn": "classify by the nearest neighbors in the space of features",
    "neighbors": "find near duplicates and unusual images in folders",
    "robustness": "measure the accuracy with dropped, shuffled and hidden patches",
    "report": "show what a model sees in some images, as an HTML page",
    "sweep": "train a config once for every combination of some values",
    "scaling": "train networks on fractions of a data set, and fit power laws",
    "plan": "compute the memory and the speed of a run on some hardware",
    "list": "list the published checkpoints that load by name",
    "convert": "write a checkpoint in another format",
    "export": "write a SavedModel, an ONNX or a LiteRT file",
    "serve": "serve a SavedModel over TF Serving's REST API",
    "query": "classify image files with a TF Serving server, over gRPC",
}
# These commands must run on machines without Keras. TensorFlow imports Keras if it is
# installed, so `main` blocks the import: the commands then behave the same everywhere.
WITHOUT_KERAS = {"serve", "query"}
# These commands read images with tf.data, whose threads may still run after an error.
READERS = {
    "pretrain",
    "finetune",
    "evaluate",
    "knn",
    "neighbors",
    "predict",
    "probe",
    "report",
    "robustness",
    "scaling",
    "sweep",
}
# These commands only print, and others often read the first lines, as `head` does.
PRINTERS = {"new-config", "plan", "list"}
# The options that are the arguments of `keras_vit.processes.joined`.
PROCESSES = ("coordinator", "processes", "process")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command that is named by the first argument.

    Args:
        arguments: the name of the command and its arguments; by default, the arguments
            of the process.
    """
    # Not `list(...)`: in this package, that is the module of a command.
    words = [*(sys.argv[1:] if arguments is None else arguments)]
    name = _parser().parse_args(words[:1]).command
    sys.argv = ["keras-vit", *words]  # Runs record it, whether or not `-m` was used.
    # TensorFlow turns oneDNN off on CPUs without AVX-512 VNNI, but there too a ViT is
    # faster with it (docs/performance.md).
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.update(matrix_products.settings(os.environ.get("KERAS_BACKEND")))
    interrupts.install()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files may have bytes that are no text in the encoding of the terminal.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        options = parse(name, words[1:])
        # With arguments, this process is not that of the command alone.
        if name in READERS and arguments is None:
            huge_pages.restart_with(huge_pages.settings(os.environ.get("KERAS_BACKEND")))
        with quiet_start():
            run = _load(name, options)
    except ImportError as error:
        remedy = install_command(error)
        if remedy is None:
            raise
        sys.exit(f"error: {error}. {remedy}")
    if name in READERS:
        process.run_as_process(run)
    elif name in PRINTERS and arguments is None:
        with interrupts.ends_with_its_reader():
            run()
    else:
        run()


def parse(name: str, words: Sequence[str]) -> argparse.Namespace:
    """Return the options of a command; exit if there is an error in its arguments.

    Args:
        name: name of the command.
        words: the arguments of the command.
    """
    module = f"keras_vit.cli.parsers.{name.replace('-', '_')}"
    return importlib.import_module(module).parse(words)


def _load(name, options):
    """Import a command with its libraries, and return a function that runs it."""
    if name in WITHOUT_KERAS:
        sys.modules["keras"] = None  # type: ignore[assignment]
    else:
        importlib.import_module("keras_vit.api")
        importlib.import_module("keras_vit.cli.compilation_cache").start()
    if name in READERS:  # Import TensorFlow here, so that its messages are hidden.
        importlib.import_module("keras_vit.data.host").tensorflow()
    module = importlib.import_module(f"keras_vit.cli.{name.replace('-', '_')}")
    run = functools.partial(module.run, options)
    if not (getattr(options, "mesh", None) or getattr(options, "coordinator", None)):
        return run
    return functools.partial(_on_devices, run, options)


def _on_devices(run, options):
    """Run a command on the devices and in the processes that its options choose."""
    from keras_vit import processes
    from keras_vit.cli.command_line import reported
    from keras_vit.training.devices import distributed

    several = [getattr(options, name, None) for name in PROCESSES]
    with (
        reported(),
        processes.joined(*several),
        distributed(options.mesh, options.fully_sharded),
    ):
        run()


def _parser():
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:{width}}  {about}" for name, about in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="keras-vit",
        description="Train, evaluate, export and serve Vision Transformers.",
        epilog=f"commands:\n{rows}\n\nkeras-vit COMMAND --help describes a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below"
    )
    version = f"keras_vit {keras_vit.__version__}"
    parser.add_argument("--version", action="version", version=version)
    return parser
