"""Graphs that TensorFlow makes of the forms for inference."""

import os
import subprocess
import sys

import pytest

# Prints the operations that are fused into the matrix products of a model.
PROGRAM = """
import tensorflow as tf
from tensorflow.python.eager import context
from tests.cases import tiny_vit

for activation in ("gelu_tanh", "gelu"):
    model = tiny_vit(activation=activation, num_layers=1)
    predict = tf.function(lambda images: model(images, training=False))
    images = tf.zeros((2, *model.input_shape[1:]))
    context.enable_run_metadata()
    predict(images)
    for graph in context.context().export_run_metadata().function_graphs:
        for node in graph.post_optimization_graph.node:
            if "FusedMatMul" in node.op:
                print(*[name.decode() for name in node.attr["fused_ops"].list.s])
"""


@pytest.mark.slow
@pytest.mark.any_backend
def test_a_gelu_is_part_of_the_product_before_it():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "TF_ENABLE_ONEDNN_OPTS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    fused = done.stdout.splitlines()
    assert fused.count("BiasAdd GeluApproximate") == 1
    assert fused.count("BiasAdd GeluExact") == 1
