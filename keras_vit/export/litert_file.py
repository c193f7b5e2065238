"""LiteRT files, written and run; in the process that has TensorFlow."""

import pathlib
import tempfile

import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_vit.export.plain_graph import plain_graph


def write(model, head, options, path):
    """Writes the model, from pixels of its own size to its outputs.

    Keras's `model.export(format="litert")` has the network alone, and names of its own.
    """
    module = tf.Module()
    module.model_variables = [weight.value for weight in model.weights]
    # The hand-written gradients stay out.
    save_options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    with tempfile.TemporaryDirectory() as folder:
        signatures = {"serving_default": plain_graph(model, head)}
        tf.saved_model.save(module, folder, signatures=signatures, options=save_options)
        # Of a SavedModel and not of the function: that loses the names, and its int8
        # gives NaN.
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=["serving_default"]
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if options["weights_dtype"] == "int8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        pathlib.Path(path).write_bytes(converter.convert())


def load(path):
    """The one signature, a function of arrays by name that returns such."""
    name = "serving_default"
    return {name: Interpreter(model_path=str(path)).get_signature_runner(name)}
