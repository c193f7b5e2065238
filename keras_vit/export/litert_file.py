"""Writer and reader of LiteRT files, used in the TensorFlow process."""

import pathlib
import tempfile
import zipfile

import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_vit.export.plain_graph import plain_graph

LABELS = "labels.txt"


def write(model, head, options, path):
    """Write the model, including preprocessing, head and class names.

    Keras's `model.export(format="litert")` would write only the network and choose other
    names for inputs and outputs. The class names are stored in a zip archive that is
    appended to the model, like the associated files of LiteRT's metadata; interpreters
    ignore data after the model.
    """
    module = tf.Module()
    module.model_variables = [weight.value for weight in model.weights]
    # LiteRT needs no gradients, so the hand-written ones are not saved.
    save_options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    with tempfile.TemporaryDirectory() as folder:
        signatures = {"serving_default": plain_graph(model, head, options["batch_size"])}
        tf.saved_model.save(module, folder, signatures=signatures, options=save_options)
        # Convert from a SavedModel: converting the function directly would lose the
        # output names, and its int8 files return NaN.
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=["serving_default"]
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if options["weights_dtype"] == "int8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        pathlib.Path(path).write_bytes(converter.convert())
    if options["labels"]:
        with zipfile.ZipFile(path, "a") as archive:
            # The entry has no date, so that equal models are written as equal files.
            archive.writestr(zipfile.ZipInfo(LABELS), "\n".join(options["labels"]))


def load(path):
    """Return a dict with the file's one signature, a function from arrays to arrays."""
    name = "serving_default"
    return {name: Interpreter(model_path=str(path)).get_signature_runner(name)}
