"""ONNX files, written and run; in the process that has TensorFlow."""

import json
import tempfile

import numpy as np
import onnx
import onnxruntime
import tf2onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from keras_vit.export.plain_graph import plain_graph

OPSET = 18


def write(model, head, options, path):
    """Writes the model, from pixels to its outputs.

    Keras's `model.export(format="onnx")` goes the same way through tf2onnx, but has the
    network alone, names of its own, and an `Erfc` that no ONNX has for exact GELU.
    """
    predict = plain_graph(model, head)
    proto, _ = tf2onnx.convert.from_function(
        predict,
        input_signature=predict.input_signature,
        opset=OPSET,
        custom_op_handlers={"Erfc": (_erfc, [])},
    )
    if options["weights_dtype"] == "int8":
        proto = _quantized(proto)
    _name_sizes(proto.graph.input, ("batch", "height", "width"))
    _name_sizes(proto.graph.output, ("batch",))
    labels = json.dumps(options["labels"], ensure_ascii=False)
    onnx.helper.set_model_props(proto, {"labels": labels})
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def load(path):
    """The one signature, a function of arrays by name that returns such."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def predict(**inputs):
        return dict(zip(names, session.run(None, inputs), strict=True))

    return {"serving_default": predict}


def _erfc(graph, node, name, args):
    """`Erfc` as 1 - `Erf`; a handler as tf2onnx wants it."""
    shape, dtype = graph.get_shape(node.output[0]), graph.get_dtype(node.output[0])
    one = graph.make_const(f"{name}/one", np.float32(1.0))
    graph.remove_node(name)
    erf = graph.make_node("Erf", node.input, shapes=[shape], dtypes=[dtype])
    graph.make_node(
        "Sub",
        [one.output[0], erf.output[0]],
        name=name,
        outputs=node.output,
        shapes=[shape],
        dtypes=[dtype],
    )


def _quantized(proto):
    matrices = {x.name for x in proto.graph.initializer if len(x.dims) == 2}
    nodes = [node.name for node in proto.graph.node if matrices.intersection(node.input)]
    with tempfile.TemporaryDirectory() as folder:
        quantize_dynamic(
            proto,
            f"{folder}/model.onnx",
            # Convolutions on whole numbers are slower here than on floats.
            op_types_to_quantize=["MatMul"],
            # Nor has onnxruntime scales for each channel of a stack of matrices.
            nodes_to_quantize=nodes,
            per_channel=True,
            # With signed ones, processors without VNNI add pairs of products in 16 bits,
            # which overflow; or a bit is given up, which doubles the error.
            weight_type=QuantType.QUInt8,
        )
        return onnx.load(f"{folder}/model.onnx")


def _name_sizes(values, names):
    """Names what tf2onnx numbers: the unknown sizes."""
    for value in values:
        sizes = value.type.tensor_type.shape.dim
        for size, name in zip(sizes, names, strict=False):
            if not size.HasField("dim_value"):
                size.dim_param = name
