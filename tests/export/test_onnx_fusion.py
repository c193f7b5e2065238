"""Formulas in ONNX graphs that become one operation, and formulas that must not."""

import collections

import numpy as np
import pytest

from tests.cases import random_array

onnx = pytest.importorskip("onnx", reason="reads ONNX graphs")
onnxruntime = pytest.importorskip("onnxruntime", reason="runs ONNX graphs")
pytestmark = pytest.mark.any_backend

D = 6
ATTRIBUTES = {"Split": {"axis": -1, "num_outputs": 3}}
NORM = [
    ("ReduceMean", "x axes", "mean"),
    ("Sub", "x mean", "centered"),
    ("Mul", "centered centered", "square"),
    ("ReduceMean", "square axes", "variance"),
    ("Add", "variance epsilon", "shifted"),
    ("Sqrt", "shifted", "deviation"),
    ("Reciprocal", "deviation", "inverse"),
]
SCALED_FIRST = [
    *NORM,
    ("Mul", "inverse gamma", "scale"),
    ("Mul", "centered scale", "scaled"),
    ("Add", "scaled beta", "y"),
]
CENTERED_FIRST = [
    *NORM,
    ("Mul", "centered inverse", "normal"),
    ("Mul", "gamma normal", "scaled"),
    ("Add", "beta scaled", "y"),
]
OTHER_NORM = [(op, i.replace("x mean", "gamma mean"), o) for op, i, o in SCALED_FIRST]
GELU = [
    ("Mul", "x sqrt_half", "small"),
    ("Erf", "small", "erf"),
    ("Add", "one erf", "sum"),
    ("Mul", "half x", "half_x"),
    ("Mul", "half_x sum", "y"),
]
OTHER_GELU = [(op, i.replace("half x", "third x"), o) for op, i, o in GELU]
DENSE = [
    ("MatMul", "x kernel", "product"),
    ("Add", "product beta", "added"),
    ("Reshape", "added shape", "reshaped"),
    ("Mul", "reshaped gamma", "y"),
]
QUERIES = [
    *DENSE[:3],
    ("Split", "reshaped", "q k v"),
    ("Reshape", "q heads", "queries"),
    ("Mul", "queries half", "scaled"),
    ("Reshape", "k heads", "keys"),
    ("Sub", "scaled keys", "y"),
]
SHARED_QUERIES = [*QUERIES[:-2], ("Sub", "scaled queries", "y")]
SHARED_DENSE = [*DENSE[:3], ("Mul", "reshaped gamma", "z"), ("Add", "z reshaped", "y")]


def constants():
    return {
        "axes": np.array([-1]),
        "epsilon": np.float32(1e-3),
        "gamma": random_array(D, seed=1),
        "beta": random_array(D, seed=2),
        "sqrt_half": np.float32(0.5**0.5),
        "one": np.float32(1),
        "half": np.float32(0.5),
        "third": np.float32(1 / 3),
        "kernel": random_array(D, D, seed=3),
        "shape": np.array([-1, 2, D]),
        "heads": np.array([-1, 2, D // 3]),
    }


def graph(nodes):
    helper = onnx.helper
    used = {name for _, inputs, _ in nodes for name in inputs.split()}
    make = onnx.numpy_helper.from_array
    initializers = [
        make(np.asarray(value), name)
        for name, value in constants().items()
        if name in used
    ]
    rank = 3 if "Reshape" in {op for op, _, _ in nodes} else 2
    value = helper.make_tensor_value_info
    return helper.make_graph(
        [
            helper.make_node(op, i.split(), o.split(), **ATTRIBUTES.get(op, {}))
            for op, i, o in nodes
        ],
        "graph",
        [value("x", onnx.TensorProto.FLOAT, [4, D])],
        [value("y", onnx.TensorProto.FLOAT, [None] * rank)],
        initializers,
    )


def run(graph, level):
    """Return the output of a graph at an optimization level of onnxruntime."""
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10
    )
    onnx.checker.check_model(model, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options)
    return session.run(["y"], {"x": random_array(4, D)})[0]


@pytest.mark.parametrize(
    ("nodes", "left"),
    [
        (SCALED_FIRST, {"LayerNormalization": 1}),
        (CENTERED_FIRST, {"LayerNormalization": 1}),
        (GELU, {"Div": 1, "Erf": 1, "Add": 1, "Mul": 2}),
        (DENSE, {"MatMul": 1, "Add": 1, "Reshape": 1}),
        (
            QUERIES,
            {"MatMul": 1, "Add": 1, "Reshape": 3, "Split": 1, "Sub": 1},
        ),
        (OTHER_NORM, None),
        (OTHER_GELU, None),
        (SHARED_DENSE, None),
        (SHARED_QUERIES, None),
    ],
    ids=[
        *("norm", "norm_2", "gelu", "dense", "queries", "other_norm", "other_gelu"),
        *("shared_dense", "shared_queries"),
    ],
)
def test_formulas(nodes, left):
    from keras_vit.export.onnx_fusion import fuse

    none = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    before, fused = graph(nodes), graph(nodes)
    fuse(fused)
    found = collections.Counter(node.op_type for node in fused.node)
    assert found == (left or collections.Counter(op for op, _, _ in nodes))
    np.testing.assert_allclose(run(fused, none), run(before, none), rtol=0, atol=1e-5)
