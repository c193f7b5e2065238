"""Classify images with a SavedModel, without Keras.

python -m recipes.classify SAVED_MODEL IMAGES.npz PREDICTIONS.npz

IMAGES.npz contains `images` with the shape that the signature of the model takes, and
pixel values 0 to 255. PREDICTIONS.npz receives `logits`, and `probabilities` if the model
ends in a softmax or a sigmoid. This program needs only TensorFlow and NumPy.
"""

import argparse
import sys

# TensorFlow imports Keras if it is installed. Block the import to show that the model
# also runs on a server without Keras.
sys.modules["keras"] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("saved_model", help="directory of one version: served/vit/1")
    parser.add_argument("images", help=".npz with images, pixel values 0 to 255")
    parser.add_argument("predictions", help=".npz to write")
    arguments = parser.parse_args()
    if not tf.saved_model.contains_saved_model(arguments.saved_model):
        parser.error(f"no SavedModel at {arguments.saved_model}; give one version of it.")
    try:
        with np.load(arguments.images) as data:
            images = data["images"].astype("float32")
    except (OSError, KeyError, ValueError) as error:
        parser.error(f"{arguments.images} is not an .npz file with images: {error}")
    model = tf.saved_model.load(arguments.saved_model)
    serve = model.signatures["serving_default"]
    try:
        outputs = serve(images=tf.constant(images))
    except tf.errors.InvalidArgumentError:
        wanted = serve.structured_input_signature[1]["images"].shape
        parser.error(f"the model takes images {wanted}; received {images.shape}.")
    np.savez(arguments.predictions, **{k: v.numpy() for k, v in outputs.items()})
    print(f"Classified {len(images)} images with TensorFlow {tf.__version__}, no Keras.")


if __name__ == "__main__":
    main()
