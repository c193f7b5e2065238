"""Export a checkpoint for serving, and compare the export with Keras.

keras-vit export CHECKPOINT --to PATH --format saved_model|onnx|litert

CHECKPOINT is the directory of a run (its best model and class names) or anything that
keras_vit.load_checkpoint reads: a name of keras_vit.checkpoints(), a file, a directory.
A SavedModel is written to PATH/VERSION, for TF Serving; the other formats to the file
PATH, which ends in .onnx or .tflite. If the comparison fails, nothing is written.
A checkpoint without a classifier gives an export that returns features; --headless drops
the classifier of one that has it.

Examples:

  keras-vit export runs/digits --to served/digits
  keras-vit export ViT-B_16.npz --to served/vit --labels classes.txt
  keras-vit export vit_b16.augreg_in21k_224 --to served/features --headless
  keras-vit export vit_s14.dinov2_lvd142m_518 --to served/dinov2 --image-size 224 224
  keras-vit export runs/digits --to digits.onnx --format onnx
  keras-vit export runs/digits --to d.tflite --format litert --weights-dtype int8
"""

import argparse
import pathlib
import shlex
import sys
from typing import Any

import keras_vit
from keras_vit.cli import command_line
from keras_vit.export.head import Head
from keras_vit.export.stored_weights import WEIGHTS_DTYPES
from keras_vit.training import config as configs
from keras_vit.training import known_class_names

NEXT = {
    "saved_model": """
Serve it:
  docker run --rm -p 8500:8500 -p 8501:8501 -v {path}:/models/{name} \\
    -e MODEL_NAME={name} tensorflow/serving
Send it an image over REST:
  printf '{{"signature_name": "{signature}", "instances": [{{"b64": "%s"}}]}}' \\
    "$(base64 -w0 IMAGE.jpg)" | curl -d @- http://localhost:8501/v1/models/{name}:predict""",
    "onnx": """
Run it on images, float32 (b, h, w, c) with pixel values 0 to 255:
  import onnxruntime
  session = onnxruntime.InferenceSession({path!r})
  ({output},) = session.run(["{output}"], {{"images": images}})""",
    "litert": """
Run it on images of the model's size, float32 (b, h, w, c) with pixel values 0 to 255:
  from ai_edge_litert.interpreter import Interpreter
  predict = Interpreter({path!r}).get_signature_runner("serving_default")
  {output} = predict(images=images)["{output}"]""",
}
# Continuations for models with a classifier.
NEXT_OF_CLASSIFIER = {
    "saved_model": """
or over gRPC:
  keras-vit query localhost:8500 {name} IMAGE.jpg""",
    "onnx": """
  import json
  labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])""",
    "litert": """
  import zipfile  # The class names are in the same file.
  labels = zipfile.ZipFile({path!r}).read("labels.txt").decode().split("\\n")""",
}

# Signatures for image files of models without a classifier, by their main output.
SIGNATURES = {"pooled": "embed", "tokens": "features_bytes"}

# Options that a format does not support, with the reason.
REFUSED: dict[str, dict[str, str]] = {
    "saved_model": {},
    "onnx": {
        "version": "a file has no versions",
        "top_k": "the file returns the values of all classes",
    },
    "litert": {
        "version": "a file has no versions",
        "top_k": "the file returns the values of all classes",
    },
}


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
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
    command_line.add_image_size(parser)
    options = parser.parse_args(arguments)
    meant = {".onnx": "onnx", ".tflite": "litert"}.get(pathlib.Path(options.to).suffix)
    if options.format == "saved_model" and meant is not None:
        parser.error(f"--to {options.to} is the name of a file: add --format {meant}.")
    for name, reason in REFUSED[options.format].items():
        if getattr(options, name) is not None:
            option = "--" + name.replace("_", "-")
            parser.error(f"{option} is not for --format {options.format}: {reason}.")
    for name in ("version", "top_k"):
        value = getattr(options, name)
        if value is not None and value < 1:
            option = "--" + name.replace("_", "-")
            parser.error(f"{option} must be 1 or more; received {value}.")
    with command_line.reported():
        try:
            print(_export(options))
        except RuntimeError as error:
            sys.exit(f"error: {error}")


def _export(options):
    """Write the export and return the text that explains how to use it."""
    kwargs: dict[str, Any] = {"weights_dtype": options.weights_dtype}
    if options.labels is not None:
        kwargs["labels"] = _lines(pathlib.Path(options.labels))
    model = _loaded(options)
    head = Head.of(model.get_config())
    if head.classifies:
        kwargs.setdefault("labels", known_class_names.of_run(options.checkpoint))
    elif options.top_k is not None:
        raise ValueError(
            f"--top-k {options.top_k} is for models with a classifier; this one returns "
            "features. Leave it out."
        )
    if options.format == "saved_model":  # Only SavedModels decode image files.
        run = command_line.run_of(options.checkpoint)
        if run is not None:
            kwargs["exif"] = configs.load(str(run / "config.json")).data.exif
    for name in ("version", "top_k"):
        if getattr(options, name) is not None:
            kwargs[name] = getattr(options, name)
    write = getattr(keras_vit.export, options.format)
    path = write(model, options.to, **kwargs)
    text = NEXT[options.format]
    if head.classifies:
        text += NEXT_OF_CLASSIFIER[options.format]
    if options.format != "saved_model":
        return text.format(path=str(path), output=head.output)
    path = path.parent.resolve()  # Servers take the directory of all versions.
    signature = SIGNATURES.get(head.output, "predict_bytes")
    place = shlex.quote(str(path))
    return text.format(path=place, name=path.name, signature=signature)


def _loaded(options):
    """Return the model of the chosen size, without its classifier if it is headless."""
    head = command_line.head_of(options.checkpoint)
    if options.headless:
        head = {"head": "drop"}
    file = command_line.checkpoint_file(options.checkpoint)
    model = keras_vit.load_checkpoint(file, **head)
    return command_line.at_image_size(model, options)


def _lines(path):
    try:
        text = path.read_text("utf-8-sig")  # Some editors write a byte order mark.
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8 ({error}): save it in UTF-8.") from None
    # str.splitlines would also split at characters other than line feeds.
    return text.removesuffix("\n").split("\n")
