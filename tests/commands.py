"""Commands of `keras-vit`, run in the process of the tests."""

import importlib

from keras_vit.cli import parse


def run_command(name, words):
    """Run a command as `keras-vit` does, but without changing the process.

    Args:
        name: str, the name of the command.
        words: list of str, its arguments.
    """
    options = parse(name, words)
    importlib.import_module(f"keras_vit.cli.{name.replace('-', '_')}").run(options)
