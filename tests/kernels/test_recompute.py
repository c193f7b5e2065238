"""Recomputation of blocks, which changes memory use and nothing else."""

import keras
import numpy as np
import pytest

from tests.cases import (
    array,
    output_and_gradients,
    perturb,
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


def trained(remat):
    keras.utils.set_random_seed(0)
    model = perturb(tiny_vit(remat=remat))
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    loss = float(model.train_on_batch(random_images(model, 4), LABELS))
    return loss, {w.path: array(w) for w in model.trainable_weights}


@pytest.mark.slow_elsewhere
def test_the_same_step():
    loss, weights = trained(remat=False)
    again, remat_weights = trained(remat=True)
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    for (path, a), b in zip(weights.items(), remat_weights.values(), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5, err_msg=path)


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
