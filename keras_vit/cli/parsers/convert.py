"""Arguments of `keras-vit convert`."""

import argparse
from collections.abc import Sequence

from keras_vit.choices import LIBRARIES, TARGETS


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command.

    Args:
        words: the arguments of the command.
    """
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
        choices=LIBRARIES,
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
    return parser.parse_args(words)
