"""The other process of an export: rebuilds a model under TensorFlow and writes it.

`python tensorflow_process.py STAGING`, with what `keras_vit.export.served_model` left in
STAGING; run with KERAS_BACKEND=tensorflow. It leaves there `export`, and in `check.npz`
what that gives for some images. It ends, and removes STAGING, when the other end of its
standard input is closed: the process that waits for it is gone.
"""

import importlib
import json
import os
import pathlib
import shutil
import sys
import threading


def die_with_parent(staging):
    """Start a thread that ends this process, and cleans up, after its parent died."""

    def watch():
        os.read(0, 1)  # Nothing is ever written: this returns at the end of the file.
        shutil.rmtree(staging, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":  # Before the imports, which take seconds.
    die_with_parent(sys.argv[1])

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import keras_vit  # noqa: E402, F401  (registers the layers)
from keras_vit.export.head import Head  # noqa: E402

BATCH_SIZES = (1, 2, 7)

# Modules with `write(model, head, options, path)`, and `load(path)`, which gives
# for each signature a function of arrays by name that returns such. Imported when
# needed, as not all that they need may be installed.
FORMATS = {
    "saved_model": "keras_vit.export.signatures",
    "onnx": "keras_vit.export.onnx_file",
    "litert": "keras_vit.export.litert_file",
}


def main(staging):
    staging = pathlib.Path(staging)
    description = json.loads((staging / "model.json").read_text())
    model_class = keras.saving.get_registered_object(description["class"])
    model = model_class.from_config(description["config"])
    model.load_weights(staging / "model.weights.h5")
    head = Head.of(description["activation"])
    path = staging / "export"
    file_format = importlib.import_module(FORMATS[description["format"]])
    file_format.write(model, head, description["options"], path)
    signatures = file_format.load(path)
    inputs, check = check_images(signatures, model)
    for name, predict in signatures.items():
        for size in BATCH_SIZES:
            batch = {argument: x[:size] for argument, x in inputs[name].items()}
            for output, value in predict(**batch).items():
                # Strings are objects, which NumPy would pickle.
                value = value.astype("S") if value.dtype == object else value
                check[f"{name} {output} {size}"] = value
    np.savez(staging / "check.npz", **check)
    result = {}
    if description["format"] == "saved_model":
        from keras_vit.export.warm_up import write_warm_up

        requests = {name: inputs[name] for name in signatures}
        result["warm_up"] = write_warm_up(path, requests)
    (staging / "result.json").write_text(json.dumps(result))


def check_images(signatures, model):
    """Inputs by name for each signature, seven images, and the pixels in them."""
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
        "serving_default": {"images": images.astype("float32")},
        "predict_uint8": {"images": images},
        "features": {"images": images.astype("float32")},
    }
    if "predict_bytes" in signatures:
        files = [tf.io.encode_jpeg(image, quality=90).numpy() for image in images]
        image_bytes = {"image_bytes": np.asarray(files, object)}
        inputs["predict_bytes"] = inputs["attention"] = image_bytes
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
