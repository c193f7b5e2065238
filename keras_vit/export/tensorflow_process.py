"""Program that rebuilds a model under TensorFlow, writes its export and runs it.

Run as `python tensorflow_process.py STAGING` with KERAS_BACKEND=tensorflow, where STAGING
holds the files written by `keras_vit.export.served_model`. The program writes `export`
into STAGING, and into `check.npz` the outputs of the export for some images. It removes
STAGING and exits when its standard input is closed, because its parent has then ended.
"""

import importlib
import json
import os
import pathlib
import shutil
import sys
import threading


def die_with_parent(staging):
    """Start a thread that cleans up and ends this process when its parent dies."""

    def watch():
        os.read(0, 1)  # The parent never writes, so this returns at the end of the file.
        shutil.rmtree(staging, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":  # Start watching before the imports, which take seconds.
    die_with_parent(sys.argv[1])

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import keras_vit  # noqa: E402, F401  (registers the layers)
from keras_vit.export.comparison import SIGNATURES_OF_FILES  # noqa: E402
from keras_vit.export.head import Head  # noqa: E402

BATCH_SIZES = (1, 2, 7)

# Modules with `write(model, head, options, path)` and `load(path)`, which returns a dict
# with a function from arrays to arrays for each signature. They are imported on demand,
# because the packages of the other formats may not be installed.
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
    activation = {"classifier_activation": description["activation"]}
    head = Head.of({**description["config"], **activation})
    path = staging / "export"
    file_format = importlib.import_module(FORMATS[description["format"]])
    file_format.write(model, head, description["options"], path)
    signatures = file_format.load(path)
    fixed = description["options"].get("batch_size")
    sizes = BATCH_SIZES if fixed is None else (fixed,)
    inputs, check = check_images(signatures, model, max(sizes))
    for name, predict in signatures.items():
        for size in sizes:
            batch = {argument: x[:size] for argument, x in inputs[name].items()}
            for output, value in predict(**batch).items():
                # NumPy would pickle strings that are Python objects.
                value = value.astype("S") if value.dtype == object else value
                check[f"{name} {output} {size}"] = value
    np.savez(staging / "check.npz", **check)
    result = {}
    if description["format"] == "saved_model":
        from keras_vit.export.warm_up import write_warm_up

        requests = {name: inputs[name] for name in signatures}
        result["warm_up"] = write_warm_up(path, requests)
    (staging / "result.json").write_text(json.dumps(result))


def check_images(signatures, model, count):
    """Return the inputs of each signature and the pixels of `count` check images."""
    height, width, channels = model.input_shape[1:]
    if model.preprocessor.image_size is not None:
        height, width = height + 1, 2 * width  # Compare the resize too.
    images = np.stack(
        [
            tf.cast(
                tf.round(tf.image.resize(part, (height, width), antialias=True)), "uint8"
            )
            for part in parts_of_photographs(count)
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
    if of_files := SIGNATURES_OF_FILES.intersection(signatures):
        files = [tf.io.encode_jpeg(image, quality=90).numpy() for image in images]
        image_bytes = {"image_bytes": np.asarray(files, object)}
        inputs |= dict.fromkeys(of_files, image_bytes)
        pixels["decoded"] = np.stack(
            [
                tf.io.decode_jpeg(file, dct_method="INTEGER_ACCURATE").numpy()
                for file in files
            ]
        )
    return inputs, pixels


def parts_of_photographs(count):
    """Return `count` crops of photographs, arrays `(h, w, 3)` of values 0 to 255."""
    try:
        from sklearn.datasets import load_sample_images

        photographs = load_sample_images().images
    except ImportError:  # scikit-learn or Pillow is missing: draw waves instead.
        rows, columns = np.ogrid[0:1:400j, 0:1:600j]
        waves = [
            np.sin(9 * rows * (1 + i)) * np.cos(14 * columns + i) * 127.5 + 127.5
            for i in range(3)
        ]
        photographs = [np.stack(waves, axis=-1)]
    places = [i % 7 for i in range(count)]  # From 7 on, crops would leave the images.
    return [
        photographs[i % len(photographs)][30 * i : 200 + 30 * i, 50 * i : 300 + 50 * i]
        for i in places
    ]


if __name__ == "__main__":
    main(sys.argv[1])
