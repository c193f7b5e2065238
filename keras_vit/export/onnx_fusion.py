"""Replacement of formulas in an ONNX graph by operations with kernels of their own."""

import math

import numpy as np
import onnx
from onnx import numpy_helper

_SQRT_TWO = "sqrt_two"  # Name of the constant that exact GELUs divide by.


def fuse(graph: onnx.GraphProto) -> None:
    """Replace formulas of many operations, in place.

    TensorFlow's graph computes a layer norm by ten operations, each of which is a pass
    over memory. They become one `LayerNormalization`. Exact GELUs get the form that
    onnxruntime computes by one kernel, because opset 18 has no GELU. LayerScale and the
    scale of the queries become part of the weights of the dense layers before them.

    Args:
        graph: graph that tf2onnx wrote.
    """
    values = _Values(graph)
    norms, folded = {}, []
    for node in graph.node:
        if node.op_type == "Sqrt" and (norm := _layer_norm(values, node)) is not None:
            norms[norm.output[0]] = norm
        elif node.op_type == "Erf" and _is_in_gelu(values, node):
            _divide_by_sqrt_two(values, node)
        elif node.op_type == "Mul" and (
            _fold_into_dense(values, node) or _fold_into_part_of_dense(values, node)
        ):
            folded.append(node.output[0])
    nodes = [
        norms.get(node.output[0], node)
        for node in graph.node
        if node.op_type != "Mul" or node.output[0] not in folded
    ]
    del graph.node[:]
    graph.node.extend(_used(nodes, [output.name for output in graph.output]))
    read = {name for node in graph.node for name in node.input}
    # onnxruntime warns about constants that no operation reads.
    constants = [constant for constant in graph.initializer if constant.name in read]
    if _SQRT_TWO in read:
        root = np.array(math.sqrt(2), "float32")
        constants.append(numpy_helper.from_array(root, _SQRT_TWO))
    del graph.initializer[:]
    graph.initializer.extend(constants)


class _Values:
    """The producer and the consumers of each value of a graph, and its constants."""

    def __init__(self, graph):
        self._constants = {x.name: x for x in graph.initializer}
        self._outputs = {output.name for output in graph.output}
        self._producers = {name: node for node in graph.node for name in node.output}
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)

    def constant(self, name):
        """Return the array of a constant; raise KeyError if it is not a constant."""
        return numpy_helper.to_array(self._constants[name])

    def scale(self, name, factor):
        """Multiply a constant by an array."""
        scaled = self.constant(name) * factor
        self._constants[name].CopyFrom(numpy_helper.from_array(scaled, name))

    def is_used_once(self, name):
        """Return True if a single operation uses a value, which is not an output."""
        return len(self._consumers[name]) == 1 and name not in self._outputs

    def producer(self, name, op_type):
        """Return the operation that computes a value; raise LookupError for another."""
        node = self._producers[name]
        if node.op_type != op_type:
            raise LookupError(name)
        return node

    def consumer(self, name, op_type):
        """Return the only operation that uses a value; raise LookupError for another."""
        (node,) = self._consumers[name]
        if node.op_type != op_type:
            raise LookupError(name)
        return node

    def split(self, node):
        """Return the variable and the constant input of an operation."""
        constants = [name for name in node.input if name in self._constants]
        (constant,) = constants
        (variable,) = (name for name in node.input if name != constant)
        return variable, constant

    def attributes(self, node):
        """Return the attributes of an operation as a dict."""
        return {x.name: onnx.helper.get_attribute_value(x) for x in node.attribute}

    def mean_over_last_axis(self, name):
        """Return the value whose mean over the last axis is another value."""
        node = self.producer(name, "ReduceMean")
        if not self.attributes(node).get("keepdims", 1) or self.constant(
            node.input[1]
        ) != [-1]:
            raise LookupError(name)
        return node.input[0]


def _layer_norm(values, sqrt):
    """Return the `LayerNormalization` that a square root is a part of, or None.

    The formula is `(x - mean) * gamma / sqrt(variance + epsilon) + beta`, with the
    products in any order.
    """
    try:
        variance, epsilon = values.split(values.producer(sqrt.input[0], "Add"))
        square = values.producer(values.mean_over_last_axis(variance), "Mul")
        (centered,) = set(square.input)
        x, mean = values.producer(centered, "Sub").input
        inverse = values.consumer(sqrt.output[0], "Reciprocal").output[0]
        first = values.consumer(inverse, "Mul")
        second = values.consumer(first.output[0], "Mul")
        factors = {*first.input, *second.input} - {inverse, first.output[0]}
        (gamma,) = factors - {centered}
        shifted = values.consumer(second.output[0], "Add")
        _, beta = values.split(shifted)
        if values.mean_over_last_axis(mean) != x or centered not in factors:
            return None
        if not values.constant(gamma).ndim == values.constant(beta).ndim == 1:
            return None
        epsilon = float(values.constant(epsilon))
    except (LookupError, ValueError):
        return None
    return onnx.helper.make_node(
        "LayerNormalization",
        [x, gamma, beta],
        list(shifted.output),
        name=shifted.name,
        epsilon=epsilon,
    )


def _is_in_gelu(values, erf):
    """Return True if an `Erf` is part of `(0.5 * x) * (1 + erf(x * sqrt(0.5)))`."""
    try:
        x, factor = values.split(values.producer(erf.input[0], "Mul"))
        added = values.consumer(erf.output[0], "Add")
        _, one = values.split(added)
        product = values.consumer(added.output[0], "Mul")
        (other,) = set(product.input) - {added.output[0]}
        half_x, half = values.split(values.producer(other, "Mul"))
        found = [float(values.constant(name)) for name in (factor, one, half)]
    except (LookupError, ValueError, TypeError):
        return False
    return half_x == x and np.allclose(found, [math.sqrt(0.5), 1.0, 0.5], rtol=1e-6)


def _divide_by_sqrt_two(values, erf):
    """Give a GELU the form `(x * 0.5) * (erf(x / sqrt(2)) + 1)`, in place.

    onnxruntime recognizes this form, with the constants in second place.
    """
    scaled = values.producer(erf.input[0], "Mul")
    x, _ = values.split(scaled)
    scaled.op_type = "Div"
    scaled.input[:] = [x, _SQRT_TWO]
    added = values.consumer(erf.output[0], "Add")
    added.input[:] = values.split(added)
    product = values.consumer(added.output[0], "Mul")
    (other,) = set(product.input) - {added.output[0]}
    halved = values.producer(other, "Mul")
    halved.input[:] = values.split(halved)


def _fold_into_dense(values, product):
    """Multiply the weights of a dense layer instead of its outputs, if possible.

    The layer consists of `MatMul`, `Add` and `Reshape`; its outputs are multiplied by a
    constant vector. Afterwards its last operation computes the product.

    Args:
        values: the `_Values` of the graph.
        product: a `Mul`.

    Returns:
        True if the product is superfluous now.
    """
    try:
        outputs, scale = values.split(product)
        reshape, kernel, bias = _dense(values, outputs)
        factor, shape = values.constant(scale), values.constant(reshape.input[1])
    except (LookupError, ValueError):
        return False
    if factor.ndim != 1 or not shape[-1] == factor.size == values.constant(bias).size:
        return False
    _scale(values, (kernel, bias), factor, reshape, product)
    return True


def _fold_into_part_of_dense(values, product):
    """Multiply a part of the weights of a dense layer instead of a part of its outputs.

    The outputs are split into equal parts along their last axis. One part is reshaped and
    multiplied by a number, as queries are. Afterwards its `Reshape` computes the product.

    Args:
        values: the `_Values` of the graph.
        product: a `Mul`.

    Returns:
        True if the product is superfluous now.
    """
    try:
        part, scale = values.split(product)
        reshape = values.producer(part, "Reshape")
        split = values.producer(reshape.input[0], "Split")
        whole, kernel, bias = _dense(values, split.input[0])
        factor, shape = values.constant(scale), values.constant(whole.input[1])
        axis = values.attributes(split)["axis"]
    except (LookupError, ValueError):
        return False
    width, parts = values.constant(bias).size, len(split.output)
    by_sizes, alone = len(split.input) > 1, (part, reshape.input[0])
    if factor.size != 1 or by_sizes or not all(map(values.is_used_once, alone)):
        return False
    if axis % len(shape) != len(shape) - 1 or shape[-1] != width or width % parts:
        return False
    factors = np.ones((parts, width // parts), "float32")
    factors[[*split.output].index(reshape.input[0])] = factor.item()
    _scale(values, (kernel, bias), factors.ravel(), reshape, product)
    return True


def _scale(values, weights, factor, reshape, product):
    """Multiply weights by a factor, and let a `Reshape` give the result of a `Mul`."""
    for name in weights:
        values.scale(name, factor)
    reshape.output[0] = product.output[0]


def _dense(values, outputs):
    """Return the `Reshape`, the kernel and the bias of the dense layer behind a value.

    Raises:
        LookupError: the value has another origin, or the layer is used elsewhere, too.
        ValueError: likewise.
    """
    reshape = values.producer(outputs, "Reshape")
    multiplied, bias = values.split(values.producer(reshape.input[0], "Add"))
    _, kernel = values.split(values.producer(multiplied, "MatMul"))
    alone = (outputs, reshape.input[0], multiplied, kernel, bias)
    if not all(map(values.is_used_once, alone)):
        raise LookupError(outputs)
    _, columns = values.constant(kernel).shape
    if values.constant(bias).shape != (columns,):
        raise LookupError(bias)
    return reshape, kernel, bias


def _used(nodes, outputs):
    """Return the nodes that the outputs depend on, in the same order."""
    wanted, used = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            used.append(node)
    return used[::-1]
