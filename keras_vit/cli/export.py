"""The command `keras-vit export`."""

import argparse
import pathlib
import shlex
import sys
from typing import Any

import keras_vit
from keras_vit.cli import command_line
from keras_vit.export.head import Head
from keras_vit.training import known_class_names

NEXT = {
    "saved_model": """
Serve it, with a page to drop images on:
  keras-vit serve {path}
or with TF Serving:
  docker run --rm -p 8500:8500 -p 8501:8501 -v {path}:/models/{name} \\
    -e MODEL_NAME={name} tensorflow/serving
Send it an image over REST:
  printf '{{"signature_name": "{signature}", "instances": [{{"b64": "%s"}}]}}' \\
    "$(base64 -w0 IMAGE.jpg)" | curl -d @- http://localhost:8501/v1/models/{name}:predict""",
    "onnx": """
Run it on images, float32 ({batch}, h, w, c) with pixel values 0 to 255:
  import onnxruntime
  session = onnxruntime.InferenceSession({path!r})
  ({output},) = session.run(["{output}"], {{"images": images}})""",
    "litert": """
Run it on images of the model's size, float32 ({batch}, h, w, c), pixel values 0 to 255:
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


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Args:
        options: the parsed options.
    """
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
        kwargs["exif"] = command_line.exif_of(options.checkpoint)
    for name in ("version", "top_k", "batch_size"):
        if getattr(options, name) is not None:
            kwargs[name] = getattr(options, name)
    write = getattr(keras_vit.export, options.format)
    path = write(model, options.to, **kwargs)
    text = NEXT[options.format]
    if head.classifies:
        text += NEXT_OF_CLASSIFIER[options.format]
    if options.format != "saved_model":
        batch = options.batch_size or "b"
        return text.format(path=str(path), output=head.output, batch=batch)
    path = path.parent.resolve()  # Servers take the directory of all versions.
    signature = SIGNATURES.get(head.output, "predict_bytes")
    place = shlex.quote(str(path))
    return text.format(path=place, name=path.name, signature=signature)


def _loaded(options):
    """Return the model of the chosen size, without its classifier if it is headless."""
    head = command_line.head_of(options.checkpoint)
    if options.headless:
        head = {"head": "drop"}
    if options.token_reduction is not None:
        head = {**head, "token_reduction": options.token_reduction}
    file = command_line.chosen_file(options.checkpoint)
    model = keras_vit.load_checkpoint(file, **head)
    return command_line.at_image_size(model, options)


def _lines(path):
    try:
        text = path.read_text("utf-8-sig")  # Some editors write a byte order mark.
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8 ({error}): save it in UTF-8.") from None
    # str.splitlines would also split at characters other than line feeds.
    return text.removesuffix("\n").split("\n")
