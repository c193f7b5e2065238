"""Export a checkpoint for serving, and compare the export with Keras.

keras-vit export CHECKPOINT --to PATH --format saved_model|onnx|litert

CHECKPOINT is the directory of a run (its best model and class names) or anything that
keras_vit.load_checkpoint reads: a name of keras_vit.checkpoints(), a file, a directory.
A SavedModel is written to PATH/VERSION, for TF Serving; the other formats to the file
PATH, which ends in .onnx or .tflite. The weights of an ONNX model above 2 GB are
written to PATH.data. If the comparison fails, nothing is written.
A checkpoint without a classifier gives an export that returns features; --headless drops
the classifier of one that has it.

Examples:

  keras-vit export runs/digits --to served/digits
  keras-vit export ViT-B_16.npz --to served/vit --labels classes.txt
  keras-vit export vit_b16.augreg_in21k_224 --to served/features --headless
  keras-vit export vit_s14.dinov2_lvd142m_518 --to served/dinov2 --image-size 224 224
  keras-vit export runs/digits --to digits.onnx --format onnx
  keras-vit export runs/digits_vit_8 --to served/faster --token-reduction 8
  keras-vit export runs/digits --to d.tflite --format litert --weights-dtype int8
  keras-vit export runs/digits --to phone.tflite --format litert --batch-size 1
"""

import argparse
import pathlib
from collections.abc import Sequence

from keras_vit.choices import WEIGHTS_DTYPES
from keras_vit.cli.parsers import shared

# Options that a format does not support, with the reason.
REFUSED: dict[str, dict[str, str]] = {
    "saved_model": {"batch_size": "it takes any number of images"},
    "onnx": {
        "version": "a file has no versions",
        "top_k": "the file returns the values of all classes",
    },
    "litert": {
        "version": "a file has no versions",
        "top_k": "the file returns the values of all classes",
    },
}


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command.

    Args:
        words: the arguments of the command.
    """
    parser = argparse.ArgumentParser(
        prog="keras-vit export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", help="a path, or a name of keras_vit.checkpoints()")
    parser.add_argument(
        "--to",
        required=True,
        metavar="PATH",
        help="directory for the versions of the model, or a .onnx or .tflite file",
    )
    parser.add_argument(
        "--format", choices=REFUSED, default="saved_model", help="default: %(default)s"
    )
    parser.add_argument(
        "--version", type=int, help="version of a saved_model (default: the next one)"
    )
    parser.add_argument(
        "--headless",
        action="store_true",
        help="leave the classifier out; the export returns features",
    )
    parser.add_argument(
        "--labels", help="text file with one class name per line, in the order of labels"
    )
    parser.add_argument(
        "--top-k",
        type=int,
        help="number of classes that a saved_model returns by name (default: 5)",
    )
    parser.add_argument(
        "--weights-dtype",
        choices=WEIGHTS_DTYPES,
        default="float32",
        help="dtype of the stored weights; bfloat16 only in a saved_model",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="write a .onnx or .tflite file for exactly N images of the model's size, in "
        "which every tensor has a fixed size, as delegates of mobile devices need it",
    )
    parser.add_argument(
        "--token-reduction",
        type=int,
        metavar="R",
        help="merge R similar tokens in every block, for a faster model (ToMe)",
    )
    shared.add_image_size(parser)
    options = parser.parse_args(words)
    meant = {".onnx": "onnx", ".tflite": "litert"}.get(pathlib.Path(options.to).suffix)
    if options.format == "saved_model" and meant is not None:
        parser.error(f"--to {options.to} is the name of a file: add --format {meant}.")
    for name, reason in REFUSED[options.format].items():
        if getattr(options, name) is not None:
            option = "--" + name.replace("_", "-")
            parser.error(f"{option} is not for --format {options.format}: {reason}.")
    for name in ("version", "top_k", "batch_size"):
        value = getattr(options, name)
        if value is not None and value < 1:
            option = "--" + name.replace("_", "-")
            parser.error(f"{option} must be 1 or more; received {value}.")
    return options
