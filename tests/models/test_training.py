import keras
import numpy as np
import pytest

from keras_vit.layers import ResNetStem
from tests.cases import array, perturb, random_array, random_images, tiny_vit

XLA = keras.backend.backend() != "torch"
# Compilation with XLA is slow under TensorFlow.
FAST = keras.backend.backend() == "jax"

CONFIGURATIONS = {
    "token": {"representation_size": 12},
    "gap": {"pooling": "gap", "positions": "learned_2d"},
    "map": {"pooling": "map", "positions": "relative"},
    "all": {
        "registers": 2,
        "layer_scale": 0.1,
        "final_norm": "after_pooling",
        "positions": "learned",
    },
}
HYBRID = {"stem": ResNetStem((1,), width=32), "patch_size": 2}


@pytest.mark.parametrize(
    "name",
    [
        "all",
        pytest.param("hybrid", marks=pytest.mark.slow_elsewhere),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("token", "gap", "map")),
    ],
)
def test_gradients_reach_every_trainable_variable(name):
    # Perturb the weights: with a zero head, no other weight has a gradient.
    model = perturb(tiny_vit(**CONFIGURATIONS.get(name, HYBRID)))
    model.compile(keras.optimizers.SGD(1.0), "sparse_categorical_crossentropy")
    before = {w.path: array(w).copy() for w in model.trainable_weights}
    model.train_on_batch(random_images(model, 4), np.array([0, 1, 2, 3]))
    still = [
        weight.path
        for weight in model.trainable_weights
        if np.array_equal(array(weight), before[weight.path])
    ]
    assert still == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param("token", "float32", marks=pytest.mark.any_backend),
        pytest.param("all", "mixed_bfloat16", marks=() if FAST else pytest.mark.slow),
        *(
            pytest.param(name, "mixed_bfloat16", marks=pytest.mark.slow)
            for name in ("token", "gap", "map")
        ),
    ],
)
def test_fit_learns(name, dtype):
    """Check that models learn which of five colors a randomly placed patch has."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 5, 64)
    images = 0.1 * random_array(64, 16, 24, 3)
    colours = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]])
    for image, label in zip(images, labels, strict=True):
        y, x = 8 * generator.integers(0, (2, 3))
        image[y : y + 8, x : x + 8] += 2 * colours[label]
    model = tiny_vit(**CONFIGURATIONS[name], num_layers=1, dropout_rate=0.05, dtype=dtype)
    model.compile(
        keras.optimizers.AdamW(5e-3),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
        jit_compile=FAST if dtype == "float32" else XLA,
    )
    history = model.fit(images, labels, batch_size=16, epochs=60, verbose=0).history
    assert np.all(np.isfinite(history["loss"]))
    loss, accuracy = model.evaluate(images, labels, verbose=0)
    assert accuracy >= 0.95, (loss, accuracy)


def test_every_dropout_is_drawn_anew_in_a_step_that_is_compiled_once():
    """Check that later epochs and calls of `fit` do not trace the step again."""
    model = perturb(
        tiny_vit(dropout_rate=0.1, attention_dropout_rate=0.1, stochastic_depth_rate=0.2)
    )
    optimizer = keras.optimizers.SGD(0.0)
    model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=XLA)
    traced, compute_loss = [], model.compute_loss
    model.compute_loss = lambda *args, **kwargs: (
        traced.append(1),
        compute_loss(*args, **kwargs),
    )[1]
    images, labels = random_images(model, 4), np.arange(4)
    model.fit(images, labels, verbose=0)
    first = len(traced)
    before = {v.path: array(v).copy() for v in model.variables}
    losses = model.fit(images, labels, epochs=3, verbose=0).history["loss"]
    assert len(set(losses)) == 3
    seeds = [v for v in model.variables if "seed_generator" in v.path]
    for seed in seeds if XLA else []:  # Torch draws its masks from a global state.
        assert not np.array_equal(array(seed), before[seed.path]), seed.path
    optimizer.learning_rate = 0.1
    losses = model.fit(images, labels, epochs=2, verbose=0).history["loss"]
    assert np.all(np.isfinite(losses))
    for weight in model.trainable_weights:
        assert not np.array_equal(array(weight), before[weight.path]), weight.path
    assert first > 0
    if XLA:  # Torch compiles nothing here.
        assert len(traced) == first


@pytest.mark.slow_elsewhere
def test_training_reaches_the_layers():
    """Check that dropout is active in `fit` and in calls with `training=True`."""
    model = tiny_vit(dropout_rate=0.5, include_top=False)
    images = random_images(model)
    once, twice = (array(model(images, training=True)) for _ in range(2))
    assert not np.allclose(once, twice)
    np.testing.assert_array_equal(
        array(model(images)), array(model(images, training=False))
    )
    seen = []
    model = tiny_vit(dropout_rate=0.5)
    dropout = model.get_layer("dropout")
    call = dropout.call
    dropout.call = lambda x, training=False: (seen.append(training), call(x, training))[1]
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(images, np.array([0, 1]), verbose=0)
    assert seen[-1] is True
