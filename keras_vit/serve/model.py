"""A SavedModel under TensorFlow, without Keras."""

import math
import os
import pathlib
import re
import sys

import numpy as np
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.protobuf import saved_model_pb2

from keras_vit.serve.tensor_json import BadRequestError, Tensor


class Model:
    """The highest version of an export that can be served.

    A version that fails to load or to run is skipped, and the reason is logged.

    Args:
        directory: path that `keras_vit.export.saved_model` was given, with a directory
            for each version.

    Attributes:
        version: int.
        signatures: for each name, its inputs by name.
        output_values: for each name, how many values it returns for an instance.
        metadata: the signatures, as TF Serving's `/metadata` has them.

    Raises:
        FileNotFoundError: there is no version that can be served.
    """

    def __init__(self, directory: str | os.PathLike):
        root = pathlib.Path(directory)
        problems: list[str] = []
        for version, path in _versions(root, problems):
            try:
                self._load(path)
                self._warm_up()
            except Exception as error:
                # TensorFlow has no common class for the errors of a damaged export.
                reason = _first_lines(str(error))
                _skip(path, f"{type(error).__name__}: {reason}", problems)
                continue
            self.version = version
            return
        raise FileNotFoundError(
            f"{root} holds no version of a model ({root}/1/saved_model.pb); give the "
            f"directory that keras-vit export wrote to.{''.join(problems)}"
        )

    def _load(self, path):
        self.metadata = _metadata(path / "saved_model.pb")
        self._functions = tf.saved_model.load(str(path)).signatures
        if not self._functions:
            raise ValueError("The SavedModel has no signatures.")
        self.output_values = {
            name: sum(map(_values, function.structured_outputs.values()))
            for name, function in self._functions.items()
        }
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

    def _warm_up(self):
        # TensorFlow prepares a graph when it first runs.
        file = tf.io.encode_jpeg(tf.zeros((64, 64, 3), tf.uint8)).numpy()
        for name, tensors in self.signatures.items():
            inputs = {}
            for argument, tensor in tensors.items():
                batch, *sides = tensor.shape
                shape = (batch or 1, *(side or 64 for side in sides))
                value = file if tensor.dtype == object else 0
                inputs[argument] = np.full(shape, value, tensor.dtype)
            self.run(name, inputs)


def _values(spec):
    """Return the values of one instance in an output; sides that vary count once."""
    return math.prod(side or 1 for side in spec.shape.as_list()[1:])


def _versions(root, problems):
    """Return pairs of a version and its directory, the highest version first.

    Directories with numbers that are not written as TF Serving's tools write them are
    skipped: `03` may stand beside `3`.
    """
    versions = []
    for path in root.iterdir() if root.is_dir() else ():
        if not path.name.isnumeric() or not path.is_dir():
            continue
        if not re.fullmatch("0|[1-9][0-9]{0,18}", path.name):
            reason = "a version is a number of at most 19 digits without leading zeros"
            _skip(path, f"{reason}; rename the directory", problems)
        elif (path / "saved_model.pb").is_file():
            versions.append((int(path.name), path))
        else:
            problems.append(f"\n{path} has no saved_model.pb.")
    return sorted(versions, reverse=True)


def _skip(path, reason, problems):
    problems.append(f"\n{path} is not served: {reason}")
    print(f"warning: {path} is not served: {reason}", file=sys.stderr, flush=True)


def _metadata(path):
    saved_model = saved_model_pb2.SavedModel()
    saved_model.ParseFromString(path.read_bytes())
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
