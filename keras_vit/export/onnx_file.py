"""Writer and reader of ONNX files, used in the TensorFlow process."""

import json
import tempfile

import numpy as np
import onnx
import onnxruntime
import tf2onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from keras_vit.export.onnx_fusion import fuse
from keras_vit.export.plain_graph import plain_graph

OPSET = 18


def write(model, head, options, path):
    """Write a model with its preprocessing as an ONNX file.

    Keras's `model.export(format="onnx")` uses tf2onnx too, but it exports the network
    without preprocessing, chooses its own input and output names, keeps the `Erfc` of
    exact GELU, which is not an ONNX operation, and computes norms operation by operation.
    """
    predict = plain_graph(model, head, options["batch_size"])
    proto, _ = tf2onnx.convert.from_function(
        predict,
        input_signature=predict.input_signature,
        opset=OPSET,
        custom_op_handlers={"Erfc": (_erfc, [])},
    )
    fuse(proto.graph)
    if options["weights_dtype"] == "int8":
        proto = _quantized(proto)
    _name_sizes(proto.graph.input, ("batch", "height", "width"))
    _name_sizes(proto.graph.output, ("batch",))
    if options["labels"]:
        labels = json.dumps(options["labels"], ensure_ascii=False)
        onnx.helper.set_model_props(proto, {"labels": labels})
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def load(path):
    """Return a dict with the file's one signature, a function from arrays to arrays."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def predict(**inputs):
        return dict(zip(names, session.run(None, inputs), strict=True))

    return {"serving_default": predict}


def _erfc(graph, node, name, args):
    """Rewrite `Erfc` as 1 - `Erf`; the signature is that of a tf2onnx handler."""
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
            # Integer convolutions are slower than float ones in onnxruntime.
            op_types_to_quantize=["MatMul"],
            # onnxruntime has no per-channel scales for stacks of matrices.
            nodes_to_quantize=nodes,
            per_channel=True,
            # With signed weights, processors without VNNI add pairs of products in 16
            # bits, which overflows; avoiding that costs a bit and doubles the error.
            weight_type=QuantType.QUInt8,
        )
        return onnx.load(f"{folder}/model.onnx")


def _name_sizes(values, names):
    """Set the names of the unknown dimensions, which tf2onnx only numbers."""
    for value in values:
        sizes = value.type.tensor_type.shape.dim
        for size, name in zip(sizes, names, strict=False):
            if not size.HasField("dim_value"):
                size.dim_param = name
