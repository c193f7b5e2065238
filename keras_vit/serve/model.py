"""SavedModel that runs under TensorFlow, without Keras."""

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
    """Exported model, loaded from the highest version that works.

    Versions that fail to load or to run are skipped with a warning.

    Args:
        directory: path that was passed to `keras_vit.export.saved_model`, which has a
            subdirectory for each version.

    Attributes:
        version: int, the version that was loaded.
        signatures: dict from the name of each signature to its inputs, a dict from names
            to `Tensor`.
        output_values: dict from the name of each signature to the number of values that
            it returns for each instance.
        metadata: dict of the signatures in the format of TF Serving's `/metadata`.

    Raises:
        FileNotFoundError: the directory has no version that can be served.
    """

    def __init__(self, directory: str | os.PathLike):
        root = pathlib.Path(directory)
        problems: list[str] = []
        for version, path in _versions(root, problems):
            try:
                self._load(path)
                self._warm_up()
            except Exception as error:
                # A damaged SavedModel can raise errors of many unrelated classes.
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
        self._loaded = tf.saved_model.load(str(path))  # Holds the variables.
        functions = self._loaded.signatures
        if not functions:
            raise ValueError("The SavedModel has no signatures.")
        # Concurrent calls of one function wait for each other to decode their images:
        # the operations of tf.data in it have one thread. Copies do not.
        copies = {name: _copy(function) for name, function in functions.items()}
        self._functions, self._copies = functions, copies
        self.output_values = {
            name: sum(map(_values, function.structured_outputs.values()))
            for name, function in functions.items()
        }
        self.signatures = {
            name: {
                argument: Tensor(
                    tuple(spec.shape.as_list()), np.dtype(spec.dtype.as_numpy_dtype)
                )
                for argument, spec in function.structured_input_signature[1].items()
            }
            for name, function in functions.items()
        }

    def run(
        self, signature: str, inputs: dict, copy: bool = False
    ) -> dict[str, np.ndarray]:
        """Run a signature and return its outputs by name.

        Args:
            signature: name of the signature.
            inputs: dict of arrays; strings have dtype `object`.
            copy: bool, whether to run a copy of the signature, which does not wait for
                calls of the signature itself.

        Returns:
            Dict of arrays.

        Raises:
            BadRequestError: the model rejects the inputs.
        """
        tensors = {
            name: tf.constant(array, tf.string if array.dtype == object else None)
            for name, array in inputs.items()
        }
        try:
            functions = self._copies if copy else self._functions
            outputs = functions[signature](**tensors)
        except tf.errors.InvalidArgumentError as error:
            raise BadRequestError(_first_lines(error.message)) from None
        return {name: value.numpy() for name, value in outputs.items()}

    def _warm_up(self):
        # TensorFlow optimizes a graph in its first run, which is therefore slow.
        file = tf.io.encode_jpeg(tf.zeros((64, 64, 3), tf.uint8)).numpy()
        for name, tensors in self.signatures.items():
            inputs = {}
            for argument, tensor in tensors.items():
                batch, *sides = tensor.shape
                shape = (batch or 1, *(side or 64 for side in sides))
                value = file if tensor.dtype == object else 0
                inputs[argument] = np.full(shape, value, tensor.dtype)
            self.run(name, inputs)


def _copy(function):
    """Return a function with the same result and operations of its own."""
    copy = tf.function(lambda **inputs: function(**inputs), autograph=False)
    return copy.get_concrete_function(**function.structured_input_signature[1])


def _values(spec):
    """Return the number of values per instance; unknown dimensions count as 1."""
    return math.prod(side or 1 for side in spec.shape.as_list()[1:])


def _versions(root, problems):
    """Return pairs of a version and its directory, the highest version first.

    Numbers with leading zeros are skipped: `03` and `3` would be the same version.
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
    # TensorFlow appends the location in the graph, which does not help a client.
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return " ".join(lines)[:500]
