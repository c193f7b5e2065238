"""Execution of an export in a separate process that cannot import Keras."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np

PROGRAM = """
import json, sys
sys.modules["keras"] = None
import numpy as np, tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry
path, folder = sys.argv[1:]
loaded = tf.saved_model.load(path)
requests = json.load(open(f"{folder}/requests.json"))
errors = {}
for number, (name, argument, dtype) in enumerate(requests):
    if dtype == "string":
        files = json.load(open(f"{folder}/{number}.json"))
        value = tf.constant([bytes.fromhex(file) for file in files], tf.string)
    else:
        value = tf.constant(np.load(f"{folder}/{number}.npy"), dtype)
    try:
        results = loaded.signatures[name](**{argument: value})
    except tf.errors.InvalidArgumentError as error:
        errors[number] = str(error)
        continue
    results = {key: value.numpy() for key, value in results.items()}
    np.savez(f"{folder}/{number}.npz", **{
        key: value.astype("S") if value.dtype == object else value
        for key, value in results.items()
    })
with open(f"{path}/saved_model.pb", "rb") as file:
    meta_graph = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs[0]
graph = meta_graph.graph_def
nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
ops = sorted({node.op for node in nodes})
functions = {f.signature.name for f in graph.library.function}
def tensors(infos):
    return {
        key: [tf.as_dtype(info.dtype).name, [d.size for d in info.tensor_shape.dim]]
        for key, info in infos.items()
    }
print(json.dumps({
    "errors": errors,
    "keras": [m for m in sys.modules if m.split(".")[0] == "keras" and m != "keras"],
    "ops": ops,
    "unknown": [op for op in ops if not (op_def_registry.get(op) or op in functions)],
    "signatures": {
        name: [tensors(signature.inputs), tensors(signature.outputs)]
        for name, signature in meta_graph.signature_def.items() if signature.inputs
    },
}))
"""


def serve(path, requests, folder, python=sys.executable):
    """Run requests and return the outputs of each, and facts about the export.

    A request is `(signature, argument, values)`, where the values are an array or a list
    of bytes. If a request raises an error, its output is the error message. The
    interpreter `python` needs TensorFlow only.
    """
    folder = pathlib.Path(folder)
    described = []
    for number, (name, argument, values) in enumerate(requests):
        if isinstance(values, list):
            files = json.dumps([file.hex() for file in values])
            (folder / f"{number}.json").write_text(files)
            described.append((name, argument, "string"))
        else:
            np.save(folder / f"{number}.npy", values)
            described.append((name, argument, str(values.dtype)))
    (folder / "requests.json").write_text(json.dumps(described))
    process = subprocess.run(
        [python, "-P", "-c", PROGRAM, path, folder],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    facts = json.loads(process.stdout.splitlines()[-1])
    answers = []
    for number in range(len(requests)):
        if str(number) in facts["errors"]:
            answers.append(facts["errors"][str(number)])
            continue
        with np.load(folder / f"{number}.npz") as results:
            answers.append(dict(results))
    return answers, facts
