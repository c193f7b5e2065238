"""A SavedModel under TensorFlow, without Keras."""

import os
import pathlib

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2

from recipes.serve.tensor_json import BadRequestError, Tensor


class Model:
    """The highest version of an export.

    Args:
        directory: path that `keras_vit.export.saved_model` was given, with a directory
            for each version.

    Attributes:
        version: int.
        signatures: for each name, its inputs by name.

    Raises:
        FileNotFoundError: there is no version in it.
    """

    def __init__(self, directory: str | os.PathLike):
        root = pathlib.Path(directory)
        found = list(root.glob("*/saved_model.pb"))
        versions = [int(p.parent.name) for p in found if p.parent.name.isdecimal()]
        if not versions:
            raise FileNotFoundError(
                f"{root} holds no version of a model ({root}/1/saved_model.pb); give the "
                "directory that python -m recipes.export wrote to."
            )
        self.version = max(versions)
        self._path = root / str(self.version)
        self._functions = tf.saved_model.load(str(self._path)).signatures
        self.signatures = {
            name: {
                argument: Tensor(
                    tuple(spec.shape.as_list()), np.dtype(spec.dtype.as_numpy_dtype)
                )
                for argument, spec in function.structured_input_signature[1].items()
            }
            for name, function in self._functions.items()
        }

    def run(self, signature: str, inputs: dict) -> dict[str, np.ndarray]:
        """Outputs by name.

        Args:
            signature: name of the signature.
            inputs: arrays by name; strings as objects.

        Raises:
            BadRequestError: the model refuses the inputs.
        """
        tensors = {
            name: tf.constant(array, tf.string if array.dtype == object else None)
            for name, array in inputs.items()
        }
        try:
            outputs = self._functions[signature](**tensors)
        except tf.errors.InvalidArgumentError as error:
            raise BadRequestError(_first_lines(error.message)) from None
        return {name: value.numpy() for name, value in outputs.items()}

    def warm_up(self) -> None:
        """Runs each signature once: TensorFlow prepares a graph when it first runs."""
        file = tf.io.encode_jpeg(tf.zeros((64, 64, 3), tf.uint8)).numpy()
        for name, tensors in self.signatures.items():
            inputs = {}
            for argument, tensor in tensors.items():
                batch, *sides = tensor.shape
                shape = (batch or 1, *(side or 64 for side in sides))
                value = file if tensor.dtype == object else 0
                inputs[argument] = np.full(shape, value, tensor.dtype)
            self.run(name, inputs)

    def metadata(self) -> dict:
        """The signatures, as TF Serving's `/metadata` has them."""
        saved_model = saved_model_pb2.SavedModel()
        saved_model.ParseFromString((self._path / "saved_model.pb").read_bytes())
        (meta_graph,) = saved_model.meta_graphs
        return {
            name: json_format.MessageToDict(
                signature,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            )
            for name, signature in meta_graph.signature_def.items()
        }


def _first_lines(message):
    # The rest is where in the graph.
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(lines)[:500]
