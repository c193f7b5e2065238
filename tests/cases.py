"""Tiny models, and helpers of the tests."""

import keras
import numpy as np
import pytest

import keras_vit

# All sizes are different, and the grid (2x3) is rectangular.
TINY = {
    "input_shape": (16, 24, 3),
    "patch_size": 8,
    "hidden_dim": 16,
    "num_layers": 2,
    "num_heads": 2,
    "mlp_dim": 24,
    "classes": 5,
}


SLOW = pytest.mark.slow


def mostly_slow(cases, *fast, mark=SLOW):
    """Return the cases of a test, all of them slow except those that are named."""
    return [
        case
        if case in fast
        else pytest.param(*(case if isinstance(case, tuple) else [case]), marks=mark)
        for case in cases
    ]


def mostly_slow_elsewhere(cases, *fast):
    """Return the cases; those not named are slow, except under TensorFlow."""
    return mostly_slow(cases, *fast, mark=pytest.mark.slow_elsewhere)


def tiny_vit(**overrides):
    return keras_vit.ViT(**{**TINY, **overrides})


# The splits reduce 8x12 tokens to 4x6 and 2x3.
TINY_T2T = {
    "input_shape": (32, 48, 3),
    "hidden_dim": 16,
    "num_layers": 2,
    "num_heads": 2,
    "mlp_dim": 32,
    "token_dim": 6,
    "classes": 5,
}
DENSE = {"backbone": "dense", "num_layers": (2, 1), "growth_rate": 8}


def tiny_t2t(**overrides):
    return keras_vit.T2TViT(**{**TINY_T2T, **overrides})


TINY_BIT = {
    "input_shape": (40, 24, 3),
    "num_blocks": (1, 2),
    "channels": (32, 64),
    "stem_channels": 16,
    "groups": 8,
    "classes": 5,
}


def tiny_bit(**overrides):
    return keras_vit.BiT(**{**TINY_BIT, **overrides})


def random_array(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype("float32")


def random_images(model, batch=2, seed=0):
    return random_array(batch, *model.input_shape[1:], seed=seed)


def perturb(model, seed=0):
    """Add noise to every weight, so that none is zero, one, or equal to another.

    Constraints are respected: the biases of keys stay zero with `qkv_bias="qv"`.
    """
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        noise = 0.1 * generator.normal(size=weight.shape)
        weight.assign(array(weight) + noise.astype("float32"))
        if getattr(weight, "constraint", None) is not None:
            weight.assign(weight.constraint(weight))
    return model


def array(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def outputs(model, x):
    """Return a model's outputs as arrays, compiled under JAX.

    An eager forward pass under JAX compiles every operation for itself, which takes
    longer than compiling the whole pass.
    """
    if keras.backend.backend() == "jax":
        return model.predict(x, verbose=0)
    return keras.tree.map_structure(array, model(x))


def weights_of(layer):
    """Return a dict from path within the layer to float64 array."""
    return {
        weight.path.split(f"{layer.name}/", 1)[1]: array(weight).astype("float64")
        for weight in layer.weights
    }


def output_and_gradients(function, arrays, upstream):
    """Return `function`'s output and the gradients of sum(output * upstream)."""
    backend = keras.backend.backend()
    tensors = [keras.ops.convert_to_tensor(x) for x in arrays]
    upstream = keras.ops.convert_to_tensor(upstream)
    if backend == "jax":
        import jax

        def stateless(*tensors):
            with keras.StatelessScope():  # Seeds are assigned.
                return function(*tensors)

        output, backward = jax.vjp(stateless, *tensors)
        gradients = backward(upstream)
    elif backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensors)
            output = function(*tensors)
        gradients = tape.gradient(output, tensors, output_gradients=upstream)
    else:
        tensors = [x.clone().requires_grad_() for x in tensors]
        output = function(*tensors)
        output.backward(upstream)
        gradients = [x.grad for x in tensors]
    float32 = [keras.ops.cast(x, "float32") for x in (output, *gradients)]
    output, *gradients = [array(keras.ops.stop_gradient(x)) for x in float32]
    return output, gradients
