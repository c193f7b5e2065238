"""The command `keras-vit convert`."""

import argparse
import os
import sys

from keras_vit.convert import convert


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Args:
        options: the parsed options.
    """
    given = {k: v for k, v in vars(options).items() if v is not None}
    source, target = given.pop("source"), given.pop("target")
    if "input_shape" in given:
        given["input_shape"] = tuple(given["input_shape"])
    try:
        difference = convert(source, target, **given)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except (OSError, ImportError, RuntimeError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(
        f"Wrote {target} ({_size(target) / 1e6:.1f} MB); largest difference "
        f"between the outputs for two random images: {difference:.3g}."
    )


def _size(target):
    """Return the size of a file, or of the files in a directory, in bytes."""
    if not os.path.isdir(target):
        return os.path.getsize(target)
    with os.scandir(target) as files:
        return sum(file.stat().st_size for file in files)
