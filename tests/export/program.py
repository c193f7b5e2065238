"""Program that runs a SavedModel; as a process of its own, it cannot import Keras.

Run as `python program.py EXPORT FOLDER`. See `tests.export.serving`.
"""

import json
import sys

if __name__ == "__main__":
    sys.modules["keras"] = None

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry


def answer(path, folder):
    """Run the requests in a folder, write their outputs, and return the errors."""
    loaded = tf.saved_model.load(path)
    with open(f"{folder}/requests.json") as file:
        requests = json.load(file)
    errors = {}
    for number, (name, argument, dtype) in enumerate(requests):
        if dtype == "string":
            with open(f"{folder}/{number}.json") as file:
                files = [bytes.fromhex(content) for content in json.load(file)]
            value = tf.constant(files, tf.string)
        else:
            value = tf.constant(np.load(f"{folder}/{number}.npy"), dtype)
        try:
            results = loaded.signatures[name](**{argument: value})
        except tf.errors.InvalidArgumentError as error:
            errors[str(number)] = str(error)
            continue
        results = {key: value.numpy() for key, value in results.items()}
        strings = {key: x.astype("S") for key, x in results.items() if x.dtype == object}
        np.savez(f"{folder}/{number}.npz", **{**results, **strings})
    return errors


def describe(path):
    """Return the operations and the signatures in the file of a SavedModel."""
    with open(f"{path}/saved_model.pb", "rb") as file:
        meta_graph = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs[0]
    graph = meta_graph.graph_def
    nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
    ops = sorted({node.op for node in nodes})
    functions = {f.signature.name for f in graph.library.function}
    return {
        "ops": ops,
        "unknown": [op for op in ops if not (op_def_registry.get(op) or op in functions)],
        "signatures": {
            name: [_tensors(signature.inputs), _tensors(signature.outputs)]
            for name, signature in meta_graph.signature_def.items()
            if signature.inputs
        },
    }


def _tensors(infos):
    return {
        key: [tf.as_dtype(info.dtype).name, [d.size for d in info.tensor_shape.dim]]
        for key, info in infos.items()
    }


if __name__ == "__main__":
    found = {"errors": answer(*sys.argv[1:]), **describe(sys.argv[1])}
    found["keras"] = [
        m for m in sys.modules if m.split(".")[0] == "keras" and m != "keras"
    ]
    print(json.dumps(found))
