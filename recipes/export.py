"""Exports a checkpoint for TF Serving, checked against Keras.

python -m recipes.export CHECKPOINT --to DIR

CHECKPOINT is the directory of a run (its best model, the names of its classes), or what
keras_vit.load_checkpoint takes: a name of keras_vit.checkpoints(), a file, a directory.
DIR/VERSION is written, or nothing. Examples:

  python -m recipes.export runs/digits --to served/digits
  python -m recipes.export ViT-B_16.npz --to served/vit --labels classes.txt
"""

import argparse
import pathlib

import keras_vit
from keras_vit.export.savedmodel import WEIGHTS_DTYPES
from recipes import command_line

HOW_TO_SERVE = """
Serve it:
  docker run --rm -p 8500:8500 -p 8501:8501 -v {directory}:/models/{name} \\
    -e MODEL_NAME={name} tensorflow/serving
Ask it (REST, then gRPC):
  printf '{{"signature_name": "predict_bytes", "instances": [{{"b64": "%s"}}]}}' \\
    "$(base64 -w0 IMAGE.jpg)" | curl -d @- http://localhost:8501/v1/models/{name}:predict
  python -m recipes.serving_client localhost:8500 {name} IMAGE.jpg"""


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", help="a path, or a name of keras_vit.checkpoints()")
    parser.add_argument(
        "--to", required=True, metavar="DIR", help="directory of the model's versions"
    )
    parser.add_argument(
        "--format", choices=("saved_model",), default="saved_model", help="(default)"
    )
    parser.add_argument("--version", type=int, help="default: the next free one")
    parser.add_argument("--labels", help="text file, a class a line, in their order")
    parser.add_argument(
        "--top-k", type=int, default=5, help="classes named (default: %(default)s)"
    )
    parser.add_argument(
        "--weights-dtype", choices=WEIGHTS_DTYPES, default="float32", help="as stored"
    )
    options = parser.parse_args(arguments)
    try:
        labels = command_line.labels_of(options.checkpoint)
        if options.labels is not None:
            labels = pathlib.Path(options.labels).read_text("utf-8").splitlines()
        version = keras_vit.export.saved_model(
            command_line.checkpoint_file(options.checkpoint),
            options.to,
            version=options.version,
            labels=labels,
            top_k=options.top_k,
            weights_dtype=options.weights_dtype,
        )
    except (OSError, ImportError, RuntimeError, ValueError) as error:
        parser.exit(1, f"error: {error}\n")
    directory = version.parent.resolve()
    print(HOW_TO_SERVE.format(directory=directory, name=directory.name))


if __name__ == "__main__":
    main()
