"""Writer and reader of ONNX files, used in the TensorFlow process."""

import json
import shutil
import tempfile

import numpy as np
import onnx
import onnxruntime
import tf2onnx
from onnx import numpy_helper
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
    proto = _converted(model, head, options["batch_size"])
    fuse(proto.graph)
    if options["weights_dtype"] == "int8":
        with tempfile.TemporaryDirectory() as folder:
            onnx.save(proto, f"{folder}/float.onnx", save_as_external_data=True)
            del proto  # onnxruntime needs the memory of the weights three times.
            proto = _quantized(f"{folder}/float.onnx", f"{folder}/int8.onnx")
    _name_sizes(proto.graph.input, ("batch", "height", "width"))
    _name_sizes(proto.graph.output, ("batch",))
    if options["labels"]:
        labels = json.dumps(options["labels"], ensure_ascii=False)
        onnx.helper.set_model_props(proto, {"labels": labels})
    _save(proto, path, options["weights_file"], options["largest_file"])
    # The checker takes models of any size by their path only.
    onnx.checker.check_model(path, full_check=True)


def load(path):
    """Return a dict with the file's one signature, a function from arrays to arrays."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def predict(**inputs):
        return dict(zip(names, session.run(None, inputs), strict=True))

    return {"serving_default": predict}


def _converted(model, head, batch_size):
    """Return the ONNX model of `plain_graph`, converted by tf2onnx.

    The matrices are arguments of the graph that is converted, because TensorFlow's graphs
    have at most 2 GB. Afterwards they become constants.
    """
    matrices = [variable for variable in model.variables if len(variable.shape) > 1]
    predict = plain_graph(model, head, batch_size, matrices)
    proto, _ = tf2onnx.convert.from_function(
        predict,
        input_signature=predict.input_signature,
        opset=OPSET,
        custom_op_handlers={"Erfc": (_erfc, [])},
    )
    values = {f"argument_{i}": matrix for i, matrix in enumerate(matrices)}
    images = [value for value in proto.graph.input if value.name not in values]
    used = [value.name for value in proto.graph.input if value.name in values]
    proto.graph.initializer.extend(
        numpy_helper.from_array(values[name].numpy(), name) for name in used
    )
    del proto.graph.input[:]
    proto.graph.input.extend(images)
    return proto


def _save(proto, path, weights_file, largest):
    """Write a file, and one for the weights beside it if they are too large for one file.

    Args:
        proto: `onnx.ModelProto`; weights that are written beside it are removed from it.
        path: `pathlib.Path` of the file.
        weights_file: name of the file of weights.
        largest: int, the largest number of bytes of weights in the file itself.
    """
    size = sum(len(constant.raw_data) for constant in proto.graph.initializer)
    beside = size > largest
    onnx.save(proto, path, save_as_external_data=beside, location=weights_file)
    if beside:  # onnx lets only the owner read the weights.
        shutil.copymode(path, path.with_name(weights_file))


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


def _quantized(source, target):
    """Return the quantized model of the file `source`, written to the file `target`."""
    graph = onnx.load(source, load_external_data=False).graph
    matrices = {x.name for x in graph.initializer if len(x.dims) == 2}
    # Products of weights alone are constants, which onnxruntime computes once: in float.
    variable, nodes = {value.name for value in graph.input}, []
    for node in graph.node:
        if variable.intersection(node.input):
            variable.update(node.output)
            if matrices.intersection(node.input):
                nodes.append(node.name)
    quantize_dynamic(
        source,
        target,
        # Integer convolutions are slower than float ones in onnxruntime.
        op_types_to_quantize=["MatMul"],
        # onnxruntime has no per-channel scales for stacks of matrices.
        nodes_to_quantize=nodes,
        per_channel=True,
        # With signed weights, processors without VNNI add pairs of products in 16
        # bits, which overflows; avoiding that costs a bit and doubles the error.
        weight_type=QuantType.QUInt8,
        use_external_data_format=True,  # Without it, files have at most 2 GB.
    )
    return onnx.load(target)


def _name_sizes(values, names):
    """Set the names of the unknown dimensions, which tf2onnx only numbers."""
    for value in values:
        sizes = value.type.tensor_type.shape.dim
        for size, name in zip(sizes, names, strict=False):
            if not size.HasField("dim_value"):
                size.dim_param = name
