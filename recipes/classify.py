"""Classify images with a SavedModel, without Keras.

python -m recipes.classify SAVED_MODEL IMAGES.npz PREDICTIONS.npz

IMAGES.npz holds `images`, pixel values 0 to 255, as the model's signature takes them;
PREDICTIONS.npz will hold `logits` and `probabilities`. Needs TensorFlow and NumPy only.
"""

import argparse
import sys

# TensorFlow imports Keras where it is installed. A server has none: refuse it here, so
# that what runs is what would run there.
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
    model = tf.saved_model.load(arguments.saved_model)
    images = np.load(arguments.images)["images"].astype("float32")
    outputs = model.signatures["serving_default"](images=tf.constant(images))
    np.savez(arguments.predictions, **{k: v.numpy() for k, v in outputs.items()})
    print(f"Classified {len(images)} images with TensorFlow {tf.__version__}, no Keras.")


if __name__ == "__main__":
    main()
