"""Task for a single self-attention layer, from the QKV to the output projection."""

from importlib import import_module

import numpy as np

from recipes.benchmark import torchvision_stub
from recipes.benchmark.contestants import torch_device
from recipes.benchmark.timing import median_seconds

HEADS, HEAD_DIM = 6, 64


def attention(library, backend, dtype, batch, tokens, repetitions):
    """Prepare to time the forward pass, and the forward and backward passes together."""
    shape = (batch, tokens, HEADS * HEAD_DIM)
    values = np.random.default_rng(0).standard_normal(shape, dtype="float32")
    if library == "timm":
        autocast = dtype == "mixed_bfloat16"
        forward, backward = _torch(_timm_layer(dtype), values, dtype, autocast)
    else:
        layer = _keras_layer(library, tokens, dtype)
        layer(values[:1])
        run = {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}[backend]
        forward, backward = run(layer, values, dtype)
    for _ in range(2):
        forward()
        backward()
    return lambda: {
        "forward (s)": median_seconds(forward, repetitions),
        "forward and backward (s)": median_seconds(backward, repetitions),
    }


def _keras_layer(library, tokens, dtype):
    import keras

    if library == "keras_vit":
        import keras_vit

        return keras_vit.layers.SelfAttention(HEADS, dtype=dtype)
    inputs = keras.Input((tokens, HEADS * HEAD_DIM), dtype=dtype.removeprefix("mixed_"))
    attention = keras.layers.MultiHeadAttention(HEADS, HEAD_DIM, dtype=dtype)
    return keras.Model(inputs, attention(inputs, inputs))


def _timm_layer(dtype):
    torchvision_stub.install()
    timm = import_module("timm")

    layer = timm.layers.Attention(HEADS * HEAD_DIM, HEADS, qkv_bias=True)
    return layer.to(torch_device(), _torch_dtype(dtype))


def _torch_dtype(dtype):
    """Return the dtype of weights and inputs on torch for a Keras dtype policy."""
    torch = import_module("torch")
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


def _jax(layer, values, dtype):
    import jax

    variables = [variable.value for variable in layer.trainable_variables]
    fixed = [variable.value for variable in layer.non_trainable_variables]
    tokens = jax.numpy.asarray(values, dtype.removeprefix("mixed_"))

    @jax.jit
    def call(variables, tokens):
        return layer.stateless_call(variables, fixed, tokens)[0]

    @jax.jit
    def gradient(variables, tokens):
        def total(*arguments):
            return call(*arguments).astype("float32").sum()

        return jax.grad(total, argnums=(0, 1))(variables, tokens)

    return (
        lambda: jax.block_until_ready(call(variables, tokens)),
        lambda: jax.block_until_ready(gradient(variables, tokens)),
    )


def _tensorflow(layer, values, dtype):
    import tensorflow as tf

    tokens = tf.cast(values, dtype.removeprefix("mixed_"))

    # Returning a single number keeps the transfer to the host out of the time.
    def first(tensor):
        return tf.cast(tf.reshape(tensor, [-1])[0], "float32")

    @tf.function
    def call(tokens):
        return first(layer(tokens))

    @tf.function
    def gradient(tokens):
        with tf.GradientTape() as tape:
            tape.watch(tokens)
            total = tf.reduce_sum(tf.cast(layer(tokens), "float32"))
        weights = [variable.value for variable in layer.trainable_variables]
        return tf.add_n([first(g) for g in tape.gradient(total, [tokens, *weights])])

    return lambda: float(call(tokens)), lambda: float(gradient(tokens))


def _torch(layer, values, dtype, autocast=False):
    """Return functions for a layer on torch.

    Args:
        layer: a layer of Keras, whose policy casts, or a module.
        values: array of the tokens.
        dtype: name of a Keras dtype policy.
        autocast: bool, whether torch casts to bfloat16.
    """
    torch = import_module("torch")

    device = torch_device()
    tokens = torch.from_numpy(values).to(device, _torch_dtype(dtype)).requires_grad_()

    def call():
        with torch.autocast(device, torch.bfloat16, enabled=autocast):
            return layer(tokens)

    def forward():
        with torch.inference_mode():
            return call().flatten()[0].item()

    def backward():
        tokens.grad = None
        layer.zero_grad()
        call().float().sum().backward()
        return tokens.grad.flatten()[0].item()

    return forward, backward
