import keras
import numpy as np
import pytest

from keras_vit.training import (
    SGD,
    AdamW,
    Lamb,
    Lion,
    Muon,
    WarmupSchedule,
    parameter_table,
)
from tests.cases import array, mostly_slow, perturb, random_array, tiny_vit
from tests.training.test_optimizer_steps import apply, random_gradients

XLA = keras.backend.backend() != "torch"
LOSS = "sparse_categorical_crossentropy"


def vit(**arguments):
    """Return a ViT, 256 images and their labels."""
    keras.utils.set_random_seed(0)
    model = perturb(tiny_vit(num_layers=1, **arguments))
    return model, random_array(256, 16, 24, 3, seed=1), np.arange(256) % 5


def small_model(*between):
    """Return a model of two dense layers and the given ones between them, with data."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(5, name="expand"),
            *between,
            keras.layers.Dense(3, activation="softmax", name="contract"),
        ]
    )
    return perturb(model), random_array(256, 6, seed=2), np.arange(256) % 3


def everything(model, cls=AdamW, accumulated=None, layer_decay=None, **arguments):
    """Return an optimizer that uses every feature."""
    matrices = {"(expand|contract)/kernel$": 1} if layer_decay is None else None
    table = parameter_table(
        model, 0.1, layer_decay=layer_decay, rates={"expand/": 2.0}, matrices=matrices
    )
    return cls(
        WarmupSchedule(0.05, 8, "linear", warmup_steps=2, start=0.01),
        table,
        ema_decay=0.6,
        global_clipnorm=0.5,
        gradient_accumulation_steps=accumulated,
        **arguments,
    )


def weights(model):
    return [array(weight).copy() for weight in model.weights]


@pytest.mark.slow_elsewhere
def test_clipping_sees_the_norm_of_all_accumulated_gradients():
    model, _, _ = small_model()
    before = [array(v).astype("float64") for v in model.trainable_variables]
    gradients = random_gradients(model, steps=2)
    optimizer = SGD(0.5, momentum=0.0, global_clipnorm=2.0, gradient_accumulation_steps=2)
    after = apply(optimizer, model, gradients)
    mean = [(a + b) / 2 for a, b in zip(*gradients, strict=True)]
    norm = np.sqrt(sum(np.sum(g.astype("float64") ** 2) for g in mean))
    assert norm > 2
    for old, new, gradient in zip(before, after, mean, strict=True):
        np.testing.assert_allclose(new, old - 0.5 * 2 / norm * gradient, atol=2e-6)


@pytest.mark.parametrize("cls", mostly_slow([SGD, AdamW, Lion, Lamb, Muon], AdamW))
def test_accumulating_4_x_32_equals_128(cls):
    results = []
    for batch, accumulated in ((128, None), (32, 4)):
        # The gradient of a ViT's key bias is zero except for rounding. Adam would amplify
        # it, so Adam uses another model.
        if cls is SGD:
            model, x, y = vit()
            optimizer = everything(model, cls, accumulated, layer_decay=0.7)
        else:
            model, x, y = small_model()
            optimizer = everything(model, cls, accumulated)
        start = weights(model)
        model.compile(optimizer, LOSS, jit_compile=XLA)
        model.fit(x, y, batch_size=batch, epochs=2, shuffle=False, verbose=0)
        assert int(optimizer.iterations) == 4
        with optimizer.averaged_weights(model):
            average = weights(model)
        results.append((weights(model), average))
    for large, small in zip(*results, strict=True):
        for one, other in zip(large, small, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    moved = max(np.max(np.abs(a - b)) for a, b in zip(start, results[0][0], strict=True))
    assert moved > 1e-2


class Recorder(keras.callbacks.Callback):
    """Callback that records the weights and evaluates the averaged ones meanwhile."""

    def __init__(self, every, data):
        super().__init__()
        self.every, self.data, self.weights, self.losses = every, data, [], []

    def on_train_batch_end(self, batch, logs=None):
        if (batch + 1) % self.every:
            return
        getattr(self.model, "jax_state_sync", lambda: None)()
        before = weights(self.model)
        trainable = [array(v).copy() for v in self.model.trainable_variables]
        with self.model.optimizer.averaged_weights(self.model):
            self.losses.append(self.model.evaluate(*self.data, verbose=0))
        for old, new in zip(before, weights(self.model), strict=True):
            np.testing.assert_array_equal(old, new)
        self.weights.append(trainable)


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("accumulated", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_the_average_runs_over_updates_also_through_a_second_fit(accumulated):
    results = []
    _, *data = small_model()
    for recorder in (Recorder(accumulated or 1, data), None):
        # These layers have non-trainable weights and a random state.
        layers = keras.layers.BatchNormalization(), keras.layers.Dropout(0.2, seed=1)
        model, x, y = small_model(*layers)
        optimizer = AdamW(0.05, ema_decay=0.6, gradient_accumulation_steps=accumulated)
        # Compilation with XLA is slow under TensorFlow.
        model.compile(optimizer, LOSS, jit_compile=keras.backend.backend() == "jax")
        for _ in range(2):
            callbacks = [recorder] if recorder else []
            model.fit(x, y, batch_size=64, shuffle=False, verbose=0, callbacks=callbacks)
        results.append((weights(model), model, optimizer, recorder))
    (watched, model, optimizer, recorder), (plain, *_) = results
    # Evaluating the average during training must not change the training.
    for one, other in zip(watched, plain, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(recorder.weights) == 8 // (accumulated or 1)
    expected = recorder.weights[0]
    for trained in recorder.weights[1:]:
        expected = [
            0.6 * old + 0.4 * new for old, new in zip(expected, trained, strict=True)
        ]
    trained = {v.path for v in model.trainable_variables}
    own = {w.path: array(w).copy() for w in model.weights if w.path not in trained}
    with optimizer.averaged_weights(model) as averaged:
        assert averaged is model
        for variable, value in zip(model.trainable_variables, expected, strict=True):
            np.testing.assert_allclose(array(variable), value, atol=1e-6)
        for weight in model.weights:
            if weight.path in own:
                np.testing.assert_array_equal(array(weight), own[weight.path])
    loss = recorder.losses[-1]
    with optimizer.averaged_weights(model):
        assert model.evaluate(x, y, verbose=0) == pytest.approx(loss, rel=1e-6)
    assert model.evaluate(x, y, verbose=0) != pytest.approx(loss, rel=1e-6)


def test_the_weights_come_back_after_an_error():
    model, x, y = small_model()
    optimizer = SGD(0.1, ema_decay=0.9)
    model.compile(optimizer, LOSS)
    model.fit(x, y, batch_size=64, verbose=0)
    before = weights(model)
    with pytest.raises(KeyError), optimizer.averaged_weights(model):
        raise KeyError
    for old, new in zip(before, weights(model), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="tf.distribute is TensorFlow's"
)
def test_averages_under_tf_distribute():
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        optimizer = AdamW(0.05, ema_decay=0.5)
        model.compile(optimizer, "mse", jit_compile=False)
    x, y = np.ones((4, 3), "float32"), np.ones((4, 2), "float32")
    seen = []
    for _ in range(3):
        model.fit(x, y, verbose=0)
        seen.append(weights(model))
    expected = [0.25 * a + 0.25 * b + 0.5 * c for a, b, c in zip(*seen, strict=True)]
    with optimizer.averaged_weights(model):
        for found, average in zip(weights(model), expected, strict=True):
            np.testing.assert_allclose(found, average, rtol=1e-5)
        model.evaluate(x, y, verbose=0)
    for found, own in zip(weights(model), seen[-1], strict=True):
        np.testing.assert_array_equal(found, own)


def test_before_the_first_update_the_average_is_the_weights():
    model, _, _ = small_model()
    optimizer = SGD(0.1, ema_decay=0.9)
    for _ in range(2):
        before = weights(model)
        with optimizer.averaged_weights(model):
            for old, new in zip(before, weights(model), strict=True):
                np.testing.assert_array_equal(old, new)
        optimizer.build(model.trainable_variables)
        perturb(model)  # Simulates loading weights after `build`.


def test_averages_that_there_are_not():
    model, _, _ = small_model()
    with (
        pytest.raises(ValueError, match="ema_decay is None"),
        SGD(0.1).averaged_weights(model),
    ):
        pass
    optimizer = SGD(0.1, ema_decay=0.9)
    optimizer.build(model.trainable_variables)
    with (
        pytest.raises(ValueError, match="is not the one that this optimizer trains"),
        optimizer.averaged_weights(small_model()[0]),
    ):
        pass
    low = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, dtype="bfloat16")])
    with pytest.raises(ValueError, match="average of bfloat16 variables"):
        AdamW(ema_decay=0.9).build(low.trainable_variables)


@pytest.mark.slow
@pytest.mark.parametrize("cls", [AdamW, SGD, Lion, Lamb, Muon])
def test_a_saved_model_goes_on_with_the_same_optimizer(cls, tmp_path):
    model, x, y = small_model()
    other = {SGD: {"nesterov": True}, Muon: {"ns_steps": 4}}.get(cls, {"beta_2": 0.95})
    optimizer = everything(model, cls, accumulated=2, **other)
    model.compile(optimizer, LOSS)
    model.fit(x[:96], y[:96], batch_size=32, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again.optimizer) is cls
    assert again.optimizer.get_config() == optimizer.get_config()
    assert again.optimizer.parameters == optimizer.parameters
    for one in (model, again):
        one.fit(x[96:], y[96:], batch_size=32, shuffle=False, verbose=0)
    for one, other in zip(weights(model), weights(again), strict=True):
        np.testing.assert_array_equal(one, other)
    with optimizer.averaged_weights(model), again.optimizer.averaged_weights(again):
        for one, other in zip(weights(model), weights(again), strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_averaged_weights_are_the_ones_saved(tmp_path):
    model, x, y = small_model()
    optimizer = AdamW(0.05, ema_decay=0.9)
    model.compile(optimizer, LOSS)
    model.fit(x, y, batch_size=64, verbose=0)
    with optimizer.averaged_weights(model):
        expected = weights(model)
        model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for saved, value in zip(weights(again), expected, strict=True):
        np.testing.assert_array_equal(saved, value)


@pytest.mark.slow
@pytest.mark.skipif(not XLA, reason="Keras has no steps_per_execution under torch")
def test_steps_per_execution_changes_nothing():
    results = []
    for steps in (1, 4):
        model, x, y = small_model()
        optimizer = everything(model, accumulated=2)
        model.compile(optimizer, LOSS, jit_compile=XLA, steps_per_execution=steps)
        model.fit(x, y, batch_size=32, shuffle=False, verbose=0)
        assert int(optimizer.iterations) == 4
        with optimizer.averaged_weights(model):
            average = weights(model)
        results.append([*weights(model), *average])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.slow
@pytest.mark.any_backend
def test_mixed_bfloat16_trains_float32_weights():
    model, images, labels = vit(dtype="mixed_bfloat16")
    before = weights(model)
    optimizer = everything(model, accumulated=2)
    model.compile(optimizer, LOSS)
    model.fit(images, labels, batch_size=64, verbose=0)
    with optimizer.averaged_weights(model):
        average = weights(model)
    for row, old, new, mean in zip(
        optimizer.parameters, before, weights(model), average, strict=True
    ):
        assert new.dtype == mean.dtype == "float32"
        assert np.all(np.isfinite(new)), row.path
        assert not np.array_equal(old, new), row.path
        assert not np.array_equal(mean, new), row.path


def test_frozen_parts_stay_and_have_no_row():
    model, x, y = small_model()
    model.get_layer("expand").trainable = False
    table = parameter_table(model, weight_decay=0.1)
    kernel, bias = model.get_layer("contract").weights
    assert [row.path for row in table] == [kernel.path, bias.path]
    before = weights(model)
    model.compile(AdamW(0.1, table, ema_decay=0.9), LOSS, jit_compile=XLA)
    model.fit(x, y, batch_size=128, verbose=0)
    same = [np.array_equal(*pair) for pair in zip(before, weights(model), strict=True)]
    assert same == [True, True, False, False]


def test_a_table_of_other_variables():
    model = tiny_vit(num_layers=1)
    table = parameter_table(model)
    model.get_layer("patch_encoder").trainable = False
    with pytest.raises(ValueError, match="Make the table after freezing"):
        AdamW(parameters=table).build(model.trainable_variables)
    other = tiny_vit(num_layers=1, classes=4)
    with pytest.raises(ValueError, match="the model has 'classifier/kernel' \\(16, 4\\)"):
        AdamW(parameters=table).build(other.trainable_variables)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_decay": 0.1}, "parameter_table\\(model, weight_decay=...\\)"),
        ({"use_ema": True}, "Use ema_decay instead of use_ema"),
        ({"ema_decay": 1.0}, "at least 0 and below 1; received 1.0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        AdamW(**arguments)
