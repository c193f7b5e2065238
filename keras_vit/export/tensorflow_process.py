"""The other process of `saved_model`: rebuilds a model under TensorFlow and writes it.

`python -m keras_vit.export.tensorflow_process STAGING`, with what `saved_model` left in
STAGING; run with KERAS_BACKEND=tensorflow. It leaves there the SavedModel, and in
`check.npz` what that gives for some images.
"""

import json
import pathlib
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_vit  # noqa: F401  (registers the layers)
from keras_vit.export.signatures import Server
from keras_vit.export.warm_up import write_warm_up

BATCH_SIZES = (1, 2, 7)


def main(staging):
    staging = pathlib.Path(staging)
    description = json.loads((staging / "model.json").read_text())
    model_class = keras.saving.get_registered_object(description["class"])
    model = model_class.from_config(description["config"])
    model.load_weights(staging / "model.weights.h5")
    activation = keras.activations.get(description["activation"])
    path = staging / "saved_model"
    Server(model, activation, **description["serving"]).save(path)
    loaded = tf.saved_model.load(str(path))
    inputs, check = check_images(loaded.signatures, model)
    for name, batch in inputs.items():
        (argument,) = loaded.signatures[name].structured_input_signature[1]
        for size in BATCH_SIZES:
            outputs = loaded.signatures[name](**{argument: tf.constant(batch[:size])})
            for output, value in outputs.items():
                value = value.numpy()  # Strings are objects, which NumPy would pickle.
                value = value.astype("S") if value.dtype == object else value
                check[f"{name} {output} {size}"] = value
    np.savez(staging / "check.npz", **check)
    requests = {name: batch[:1] for name, batch in inputs.items()}
    warm = write_warm_up(path, loaded.signatures, requests)
    (staging / "result.json").write_text(json.dumps({"warm_up": warm}))


def check_images(signatures, model):
    """Inputs of seven images for each signature, and the pixels that are in them."""
    height, width, channels = model.input_shape[1:]
    if model.preprocessor.image_size is not None:
        height, width = height + 1, 2 * width  # So that the resize is compared too.
    images = np.stack(
        [
            tf.cast(
                tf.round(tf.image.resize(part, (height, width), antialias=True)), "uint8"
            )
            for part in parts_of_photographs(max(BATCH_SIZES))
        ]
    )
    if channels == 1:
        images = tf.image.rgb_to_grayscale(images).numpy()
    else:
        images = images[..., np.arange(channels) % 3]
    pixels = {"images": images}
    inputs = {
        "serving_default": images.astype("float32"),
        "predict_uint8": images,
        "features": images.astype("float32"),
    }
    if "predict_bytes" in signatures:
        files = [tf.io.encode_jpeg(image, quality=90).numpy() for image in images]
        inputs["predict_bytes"] = inputs["attention"] = np.asarray(files, object)
        pixels["decoded"] = np.stack(
            [
                tf.io.decode_jpeg(file, dct_method="INTEGER_ACCURATE").numpy()
                for file in files
            ]
        )
    return inputs, pixels


def parts_of_photographs(count):
    """Arrays `(h, w, 3)`, pixel values 0 to 255."""
    try:
        from sklearn.datasets import load_sample_images

        photographs = load_sample_images().images
    except ImportError:  # scikit-learn or Pillow.
        rows, columns = np.ogrid[0:1:400j, 0:1:600j]
        waves = [
            np.sin(9 * rows * (1 + i)) * np.cos(14 * columns + i) * 127.5 + 127.5
            for i in range(3)
        ]
        photographs = [np.stack(waves, axis=-1)]
    return [
        photographs[i % len(photographs)][30 * i : 200 + 30 * i, 50 * i : 300 + 50 * i]
        for i in range(count)
    ]


if __name__ == "__main__":
    main(sys.argv[1])
