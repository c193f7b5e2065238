"""Exported classifiers, run by TensorFlow, ONNX Runtime or LiteRT instead of Keras."""

import json
import os
import pathlib
import zipfile
from importlib import import_module
from typing import Any

import numpy as np

from keras_vit.layers import Preprocessor

SUFFIXES = (".onnx", ".tflite")
# Name of the constant of a SavedModel's graph with the names of the classes.
CLASS_NAMES = "class_names"


def is_export(path: str) -> bool:
    """Return True if a path is an ONNX or LiteRT file or holds SavedModel versions.

    Args:
        path: path or name of a checkpoint or an export.

    Raises:
        ValueError: the path is one version of a SavedModel instead of the directory of
            its versions.
    """
    if os.path.exists(f"{path}/saved_model.pb"):
        directory = pathlib.Path(path).parent
        raise ValueError(f"{path} is one version of a model: use {directory}.")
    return path.endswith(SUFFIXES) or bool(_versions(path))


class HeadlessError(ValueError):
    """Error for an export that returns features instead of logits."""


class Export:
    """Exported SavedModel, ONNX or LiteRT file with the interface that `evaluate` needs.

    Args:
        path: an `.onnx` or `.tflite` file, or a directory of SavedModel versions, the
            highest of which is loaded.

    Attributes:
        preprocessor: `Preprocessor` that leaves pixel values at 0 to 255, because the
            export normalizes them itself.
        input_shape: `(None, height, width, channels)`, with None for any size.
        output_shape: `(None, classes)`.
        class_names: list of the names of the classes, or None if the export has none.
        logits: function from TensorFlow's tensors of pixel values to logits, only of a
            SavedModel.

    Raises:
        FileNotFoundError: the path does not exist.
        ImportError: the package that runs the format is not installed.
        ValueError: the export cannot be read, or it returns features instead of logits.
    """

    def __init__(self, path: str):
        if not os.path.exists(path):
            raise FileNotFoundError(f"There is no export at {path}.")
        kind = pathlib.Path(path).suffix
        load = {".onnx": self._onnx, ".tflite": self._litert}.get(kind, self._saved_model)
        self.class_names: list[str] | None = None
        try:
            shape, classes = load(path)
        except (ImportError, HeadlessError):
            raise
        except Exception as error:  # Each library has its own error classes.
            raise ValueError(f"{path} cannot be read: {error}") from error
        self._batch, *sizes = (n if isinstance(n, int) and n > 0 else None for n in shape)
        self.input_shape = (None, *sizes)
        self.output_shape = (None, int(classes))
        if self.class_names == [str(number) for number in range(int(classes))]:
            self.class_names = None  # Placeholders for a model without class names.
        self.preprocessor = Preprocessor(mean=0.0, std=1.0)

    def get_config(self) -> dict[str, Any]:
        """Return a model config with `class_names` only; exports store nothing else."""
        return {"class_names": self.class_names}

    def predict_on_batch(self, images) -> np.ndarray:
        """Return the logits of a batch of images.

        Args:
            images: pixel values 0 to 255, `(b, h, w, c)`.

        Returns:
            Array `(b, classes)`.
        """
        images = np.asarray(images, "float32")
        if self._batch is None:
            return self._logits(images)
        # The file takes a fixed number of images; black ones fill the last call.
        missing = -len(images) % self._batch
        filled = np.pad(images, [(0, missing), *[(0, 0)] * 3])
        parts = np.split(filled, len(filled) // self._batch)
        return np.concatenate([self._logits(part) for part in parts])[: len(images)]

    def _onnx(self, path):
        session = import_module("onnxruntime").InferenceSession(path)
        self._logits = lambda images: session.run(["logits"], {"images": images})[0]
        labels = session.get_modelmeta().custom_metadata_map.get("labels")
        self.class_names = labels and json.loads(labels)
        shapes = {output.name: output.shape for output in session.get_outputs()}
        return session.get_inputs()[0].shape, _logits(path, shapes)[-1]

    def _litert(self, path):
        interpreter = import_module("ai_edge_litert.interpreter").Interpreter(
            path, num_threads=os.cpu_count()
        )
        self.class_names = _labels_of_litert(path)
        serve = interpreter.get_signature_runner("serving_default")
        self._logits = lambda images: serve(images=images)["logits"]
        # Unknown sizes are 1 in `shape`.
        details = serve.get_input_details()["images"]
        shape = [int(n) for n in details["shape_signature"]]
        return shape, _logits(path, serve.get_output_details())["shape"][-1]

    def _saved_model(self, path):
        tf = import_module("tensorflow")
        # Keep a reference: the variables are deleted together with the loaded object.
        self._loaded = tf.saved_model.load(f"{path}/{max(_versions(path))}")
        serve = self._loaded.signatures["serving_default"]
        # In a graph of `tf.data`, this computes a tensor.
        self.logits = lambda x: serve(images=x)["logits"]
        self._logits = lambda x: self.logits(tf.constant(x)).numpy()
        shape = serve.structured_input_signature[1]["images"].shape
        classes = _logits(path, serve.structured_outputs).shape[-1]
        self.class_names = _labels_of_saved_model(self._loaded, classes)
        return shape.as_list(), classes


def _logits(path, outputs):
    """Return the entry of the logits in a dict of outputs.

    Raises:
        HeadlessError: there are features instead of logits.
    """
    if "logits" not in outputs and not {"pooled", "tokens"}.isdisjoint(outputs):
        raise HeadlessError(
            f"{path} has no classifier: it returns {', '.join(sorted(outputs))}. Fit one "
            "to the features of its checkpoint (keras-vit probe), or fine-tune the "
            "checkpoint (keras-vit finetune)."
        )
    return outputs["logits"]


def _labels_of_litert(path):
    """Return the lines of labels.txt in the zip archive at the end of a file, if any."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        if "labels.txt" not in archive.namelist():
            return None
        return archive.read("labels.txt").decode().split("\n")


def _labels_of_saved_model(loaded, classes):
    """Return the class names that are stored as a constant in the graph, or None."""
    for signature in loaded.signatures.values():
        if "labels" not in signature.structured_outputs:
            continue
        graph = signature.graph.as_graph_def()
        functions = (node for f in graph.library.function for node in f.node_def)
        found = [
            (node.name.split("/")[-1], node.attr["value"].tensor.string_val)
            for node in (*graph.node, *functions)
            if node.op == "Const"
        ]
        named = [values for name, values in found if name == CLASS_NAMES]
        if not named and classes > 1:  # Older exports did not name it.
            named = [values for _, values in found if len(values) == classes]
        return [name.decode() for name in named[0]] if named else None
    return None


def _versions(path):
    return [
        int(found.parent.name)
        for found in pathlib.Path(path).glob("*/saved_model.pb")
        if found.parent.name.isdecimal()
    ]
