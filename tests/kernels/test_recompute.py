"""Recomputation of blocks, which changes memory use and nothing else."""

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.kernels.recompute import recompute
from keras_vit.layers import MLP, GatedMLP, SelfAttention
from keras_vit.layers import block as block_module
from tests.cases import (
    array,
    mostly_slow,
    output_and_gradients,
    perturb,
    random_array,
    random_images,
    tiny_vit,
)

LABELS = np.array([0, 1, 2, 3])
DROPOUTS = {
    "dropout_rate": 0.3,
    "attention_dropout_rate": 0.3,
    "stochastic_depth_rate": 0.3,
    "layer_scale": 0.5,
}


def trained(remat, steps=1, **arguments):
    keras.utils.set_random_seed(0)
    model = perturb(tiny_vit(remat=remat, **arguments))
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    images = random_images(model, 4)
    loss = [float(model.train_on_batch(images, LABELS)) for _ in range(steps)][-1]
    return loss, {w.path: array(w) for w in model.trainable_weights}


PARTS = [
    (True, "pre_norm"),
    ("attention", "pre_norm"),
    ("mlp", "pre_norm"),
    ("attention", "post_norm"),
    ("mlp", "parallel"),
]


@pytest.mark.parametrize(
    ("remat", "order"),
    mostly_slow(PARTS, *PARTS[1:3], mark=pytest.mark.slow_elsewhere),
)
def test_the_same_step(remat, order, monkeypatch):
    loss, weights = trained(remat=False, block=order)
    calls = []

    def counted(layer, function, x):
        calls.append(layer.name)
        return recompute(layer, function, x)

    monkeypatch.setattr(block_module, "recompute", counted)
    again, remat_weights = trained(remat=remat, block=order)
    assert calls[:2] == ["block_0", "block_1"]
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    for (path, a), b in zip(weights.items(), remat_weights.values(), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5, err_msg=path)


def test_the_same_entries_are_dropped_with_and_without():
    """A block draws the masks of both its branches: no step may repeat one of them."""
    arguments = {"steps": 3, "num_layers": 1, "stochastic_depth_rate": 0.5}
    loss, _ = trained(remat=False, **arguments)
    again, _ = trained(remat=True, **arguments)
    np.testing.assert_allclose(again, loss, rtol=1e-4)


@pytest.mark.slow_elsewhere
def test_both_computations_drop_the_same_entries():
    """Compare the gradient with differences of the loss for the same masks."""
    model = perturb(tiny_vit(remat=True, dropout_rate=0.5, classes=5))
    block = model.get_layer("block_0")
    tokens = keras.ops.convert_to_tensor(
        np.random.default_rng(0).normal(size=(2, 7, 16)).astype("float32")
    )
    seeds = block.non_trainable_variables
    values = [array(seed) for seed in seeds]

    def loss(tokens):
        for seed, value in zip(seeds, values, strict=True):
            seed.assign(value)
        return keras.ops.sum(keras.ops.sin(block(tokens, training=True)))

    _, (gradient,) = output_and_gradients(loss, [tokens], np.float32(1))
    direction = np.random.default_rng(1).normal(size=tokens.shape).astype("float32")
    step = 1e-2 * direction
    numeric = (float(loss(tokens + step)) - float(loss(tokens - step))) / 2e-2
    np.testing.assert_allclose(np.sum(gradient * direction), numeric, rtol=2e-2)


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize(
    ("remat", "jit_compile"),
    [(True, "auto"), pytest.param(True, False, marks=pytest.mark.slow)],
)
def test_every_step_drops_others(remat, jit_compile):
    keras.utils.set_random_seed(0)
    model = perturb(tiny_vit(remat=remat, **DROPOUTS))
    # With a learning rate of 0, only the masks make losses differ.
    model.compile(
        keras.optimizers.SGD(0.0),
        "sparse_categorical_crossentropy",
        jit_compile=jit_compile,
    )
    images = random_images(model, 4)
    losses = {float(model.train_on_batch(images, LABELS)) for _ in range(4)}
    assert len(losses) == 4


jax_on_cpu = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="what JAX keeps in memory"
)


def built(layer):
    layer.build((2, 7, 16))
    return perturb(layer)


@jax_on_cpu
@pytest.mark.usefixtures("_fast_again")
@pytest.mark.parametrize(
    "layer", [MLP(24, "gelu"), MLP(24, inner_norm=True), GatedMLP(24)], ids=repr
)
def test_an_mlp_that_computes_its_activations_again(layer):
    built(layer)
    weights = [w.value for w in layer.trainable_variables]

    def call(x, *values):
        return layer.stateless_call(values, [], x, training=True)[0]

    arguments = [random_array(2, 7, 16), *weights], random_array(2, 7, 16, seed=1)
    output, gradients = output_and_gradients(call, *arguments)
    keras_vit.kernels.use("plain")
    expected, expected_gradients = output_and_gradients(call, *arguments)
    np.testing.assert_allclose(output, expected, atol=2e-6)
    for result, reference in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(result, reference, rtol=1e-5, atol=1e-5)


@pytest.fixture
def _fast_again():
    yield
    keras_vit.kernels.use("fast")


def kept(layer, x):
    """Return the sizes of the arrays that JAX keeps for the backward pass."""
    import jax

    layer = built(layer)

    def call(x):
        with keras.StatelessScope():
            return layer(x, training=True)

    _, backward = jax.vjp(call, x)
    return [leaf.size for leaf in jax.tree.leaves(backward)]


@jax_on_cpu
@pytest.mark.parametrize(("dropout_rate", "copies"), [(0.0, 1), (0.1, 3)])
def test_an_mlp_keeps_its_hidden_layer_once(dropout_rate, copies):
    sizes = kept(MLP(24, dropout_rate=dropout_rate), random_array(2, 7, 16))
    assert sizes.count(2 * 7 * 24) == copies


@jax_on_cpu
def test_the_gradient_of_gelu_computes_the_error_function_again():
    import jax

    def total(x):
        return keras.ops.sum(keras.ops.sin(keras_vit.layers.mlp.gelu_exact(x)))

    compiled = jax.jit(jax.value_and_grad(total)).lower(random_array(5, 7)).compile()
    assert compiled.as_text().count(" erf(") == 2


@jax_on_cpu
def test_attention_does_not_transpose_matrices():
    """Check the products in which both operands are contracted along their last axis."""
    import jax

    layer = built(SelfAttention(2))

    def total(x):
        with keras.StatelessScope():
            return keras.ops.sum(keras.ops.sin(layer(x, training=True)))

    text = jax.jit(jax.grad(total)).lower(random_array(2, 7, 16)).as_text("hlo")
    contracted = (
        "lhs_contracting_dims={3}, rhs_batch_dims={0,1}, rhs_contracting_dims={3}"
    )
    assert text.count(contracted) == 2  # The logits and the gradient of the weights.
