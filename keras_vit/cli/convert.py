"""The command `keras-vit convert`."""

import argparse
import os

from keras_vit.convert import LIBRARIES, TARGETS, convert


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="keras-vit convert",
        description="Convert a checkpoint to another format and verify the result.",
        epilog="example: keras-vit convert ViT-B_16.npz vit_b16.keras",
    )
    parser.add_argument("source", help="a path, or a name of keras_vit.checkpoints()")
    parser.add_argument(
        "target", help=f"a path ending in {', '.join(TARGETS)}, or with --to a directory"
    )
    parser.add_argument(
        "--to",
        choices=tuple(LIBRARIES),
        help="write a directory with weights and configuration for this library",
    )
    parser.add_argument(
        "--input-shape",
        type=int,
        nargs=3,
        metavar=("HEIGHT", "WIDTH", "CHANNELS"),
        help="shape of the images, if the source does not state it or to change it",
    )
    parser.add_argument(
        "--num-heads",
        type=int,
        help="number of attention heads, if the source does not state it",
    )
    parser.add_argument(
        "--architecture", help="timm's name for the network, if there is no config.json"
    )
    parser.add_argument(
        "--state-dict", help="part of a PyTorch file to read, if the file has several"
    )
    parser.add_argument(
        "--no-top",
        action="store_false",
        dest="include_top",
        default=None,
        help="convert the model without its classifier",
    )
    given = {k: v for k, v in vars(parser.parse_args(arguments)).items() if v is not None}
    source, target = given.pop("source"), given.pop("target")
    if "input_shape" in given:
        given["input_shape"] = tuple(given["input_shape"])
    try:
        difference = convert(source, target, **given)
    except KeyboardInterrupt:
        parser.exit(130, "interrupted\n")
    except (OSError, ImportError, RuntimeError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
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
