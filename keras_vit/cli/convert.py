"""The command `keras-vit convert`."""

import argparse
import os
from typing import Any

from keras_vit.convert import TARGETS, convert


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="keras-vit convert",
        description="Convert a checkpoint to another format and verify the result.",
        epilog="example: keras-vit convert ViT-B_16.npz vit_b16.keras",
    )
    parser.add_argument("source", help="a path, or a name of keras_vit.checkpoints()")
    parser.add_argument("target", help=f"a path ending in {', '.join(TARGETS)}")
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
        "--no-top", action="store_true", help="convert the model without its classifier"
    )
    options = parser.parse_args(arguments)
    overrides: dict[str, Any] = {}
    if options.input_shape:
        overrides["input_shape"] = tuple(options.input_shape)
    if options.num_heads:
        overrides["num_heads"] = options.num_heads
    for name in ("architecture", "state_dict"):
        if getattr(options, name):
            overrides[name] = getattr(options, name)
    if options.no_top:
        overrides["include_top"] = False
    try:
        difference = convert(options.source, options.target, **overrides)
    except KeyboardInterrupt:
        parser.exit(130, "interrupted\n")
    except (OSError, ImportError, RuntimeError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    size = os.path.getsize(options.target)
    print(
        f"Wrote {options.target} ({size / 1e6:.1f} MB); largest difference between the "
        f"outputs for two random images: {difference:.3g}."
    )
