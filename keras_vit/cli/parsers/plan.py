r"""Plan a run: its memory, communication and speed on some hardware, and the mesh to use.

keras-vit plan MODEL --hardware FILE [--batch N] [--remat] [--dtype D] [--optimizer O]
    [--epochs N] [--images N] [--image-bytes N] [--set ...]

MODEL is a variant, such as ViTB16, or a config as for keras-vit pretrain. FILE is a TOML
file that describes devices and hosts, or a name: a100x8, h100x8 or h100_pod. Nothing is
trained, and no weights are allocated: the plan of a ViT-G needs no accelerator. The
memory of a device is within 15 % of that of the compiled program for plain ViTs on CPUs;
times are bounds for the fractions of the peaks in FILE. A variant has 1000 classes and a
batch of 128 images per device by default.

Examples:

  keras-vit plan ViTB16 --hardware h100x8 --batch 4096 --epochs 90
  keras-vit plan ViTG14 --hardware h100_pod --batch 4096 --remat --images 300000000
  keras-vit plan vit_s16_imagenet_90ep --hardware my_hosts.toml
"""

import argparse
from collections.abc import Sequence

from keras_vit.cli.parsers import shared

# Options that stand for a setting: type, key and meaning.
SHORT = {
    "batch": (int, "batch_size", "images in a batch of all devices"),
    "dtype": (str, "dtype", "dtype policy, such as mixed_bfloat16"),
    "optimizer": (str, "optimization.optimizer", "optimizer, such as adamw"),
}


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command.

    Args:
        words: the arguments of the command.
    """
    parser = argparse.ArgumentParser(
        prog="keras-vit plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", metavar="MODEL")
    parser.add_argument(
        "--hardware", required=True, metavar="FILE", help="a .toml file, or a name"
    )
    for option, (kind, key, about) in SHORT.items():
        parser.add_argument(
            f"--{option}",
            type=kind,
            metavar="N" if kind is int else "NAME",
            help=f"{about}; short for --set {key}=...",
        )
    parser.add_argument(
        "--remat",
        nargs="?",
        const="block",
        choices=("block", "attention", "mlp"),
        help="recompute blocks, or one branch of them, in the backward pass; short for "
        "--set model.arguments.remat=...",
    )
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="passes over the training images"
    )
    parser.add_argument(
        "--images",
        type=int,
        metavar="N",
        help="number of training images (default: that of known sets; ImageNet-1k for "
        "a variant)",
    )
    parser.add_argument(
        "--image-bytes",
        type=int,
        default=110_000,
        metavar="N",
        help="mean bytes of an image file (default: 110000, as in ImageNet)",
    )
    shared.add_settings(parser)
    parser.set_defaults(data_dir=None)
    options = parser.parse_args(words)
    keys = {name: key for name, (_, key, _) in SHORT.items()}
    keys["remat"] = "model.arguments.remat"
    values = {key: getattr(options, name) for name, key in keys.items()}
    given = [f"{key}={value}" for key, value in values.items() if value is not None]
    options.settings = [*given, *options.settings]
    return options
