"""The other process of `saved_model`: rebuilds a model under TensorFlow and writes it.

`python -m keras_vit.export.tensorflow_process STAGING`, with what `saved_model` left in
STAGING; run with KERAS_BACKEND=tensorflow.
"""

import json
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_vit  # noqa: F401  (registers the layers)


def main(staging):
    staging = pathlib.Path(staging)
    description = json.loads((staging / "model.json").read_text())
    model_class = keras.saving.get_registered_object(description["class"])
    model = model_class.from_config(description["config"])
    model.load_weights(staging / "model.weights.h5")
    activation = keras.activations.get(description["activation"])
    write(model, activation, staging / "saved_model")
    difference = compare(staging / "saved_model", np.load(staging / "check.npz"))
    (staging / "difference.json").write_text(json.dumps(difference))


def write(model, activation, path):
    shape = model.input_shape
    if model.preprocessor.image_size is not None:
        shape = (None, None, None, shape[3])  # It resizes.

    def serve(images):
        # A signature does not check shapes; the first reshape would mix the images.
        images = tf.ensure_shape(images, shape)
        logits = model(model.preprocessor(images), training=False)
        return {"logits": logits, "probabilities": activation(logits)}

    # Not keras.export.ExportArchive: Keras 3.15's stores every weight twice.
    module = tf.Module()
    module.model_variables = [weight.value for weight in model.weights]
    module.serve = tf.function(
        serve, input_signature=[tf.TensorSpec(shape, tf.float32, name="images")]
    )
    # A server takes no gradients: the hand-written ones, which use XLA, stay out.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    signatures = {"serving_default": module.serve}
    tf.saved_model.save(module, str(path), signatures=signatures, options=options)


def compare(path, check):
    """Largest difference between the written model's logits and Keras's.

    For batches of 1 and 2; where logits are larger than 1, as a part of the largest.
    """
    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]
    images, expected = check["images"], check["logits"]
    differences = []
    for size in (1, 2):
        logits = serve(images=tf.constant(images[:size]))["logits"].numpy()
        differences.append(np.max(np.abs(logits - expected[:size])))
    return float(max(differences) / max(1.0, np.max(np.abs(expected))))


if __name__ == "__main__":
    main(sys.argv[1])
