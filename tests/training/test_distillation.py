"""Distillation: losses, the teacher's images, and what trains."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_vit
from keras_vit.layers import Preprocessor
from keras_vit.training import (
    AdamW,
    Distillation,
    DistillationLoss,
    with_distillation_token,
)
from tests.cases import (
    array,
    mostly_slow_elsewhere,
    output_and_gradients,
    perturb,
    random_array,
    tiny_bit,
    tiny_vit,
)
from tests.formulas import softmax

LOGITS = {"classifier_activation": None}


def student(**overrides):
    return perturb(tiny_vit(**{**LOGITS, "distillation_token": True, **overrides}))


def teacher(make=tiny_vit, **overrides):
    # Another size and another scale than the student's.
    shape = (40, 24, 3)
    scale = Preprocessor([120.0, 110.0, 100.0], [50.0, 60.0, 70.0], image_size=shape[:2])
    own = {"preprocessor": scale, "classifier_activation": None, **overrides}
    return perturb(make(input_shape=shape, **own), seed=1)


def images(batch=4, shape=(16, 24, 3)):
    return random_array(batch, *shape, seed=5, scale=0.5)


def soft(target, logits, t):
    p, q = softmax(target / t), softmax(logits / t)
    return t**2 * (p * np.log(p / q)).sum(-1)


def hard(target, logits):
    return -np.log(softmax(logits)[np.arange(len(logits)), target.argmax(-1)])


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_soft_loss(temperature):
    target, logits = random_array(3, 5), random_array(3, 5, seed=1)
    loss = DistillationLoss("soft", temperature)
    value, (gradient,) = output_and_gradients(
        lambda x: loss(ops.convert_to_tensor(target), x), [logits], 1.0
    )
    wide = soft(target.astype("float64"), logits.astype("float64"), temperature)
    np.testing.assert_allclose(value, wide.mean(), rtol=1e-5)
    # The gradient is that of matching logits, times the temperature.
    difference = softmax(logits / temperature) - softmax(target / temperature)
    np.testing.assert_allclose(gradient, temperature * difference / 3, atol=1e-6)
    again = DistillationLoss.from_config(loss.get_config())
    assert (again.kind, again.temperature) == ("soft", temperature)


def test_the_hard_loss():
    target, logits = random_array(3, 5), random_array(3, 5, seed=1)
    weights = np.array([1.0, 0.0, 2.0], "float32")
    loss = DistillationLoss("hard")
    value, (gradient,) = output_and_gradients(
        lambda x: loss(ops.convert_to_tensor(target), x, weights), [logits], 1.0
    )
    np.testing.assert_allclose(value, (weights * hard(target, logits)).mean(), rtol=1e-5)
    difference = softmax(logits) - np.eye(5)[target.argmax(-1)]
    np.testing.assert_allclose(gradient, weights[:, None] * difference / 3, atol=1e-6)


def seen(x, size):
    """Return the teacher's input for images of a student with the default scale."""
    pixels = ops.image.resize(x * 127.5 + 127.5, size, antialias=False)
    return (array(pixels) - [120.0, 110.0, 100.0]) / [50.0, 60.0, 70.0]


LOSSES = [(True, "hard"), (True, "soft"), (False, "hard"), (False, "soft")]


@pytest.mark.parametrize(
    ("token", "kind"), mostly_slow_elsewhere(LOSSES, LOSSES[0], LOSSES[3])
)
def test_the_whole_loss(token, kind):
    taught, frozen, x = student(distillation_token=token), teacher(), images()
    labels = softmax(random_array(4, 5, seed=7))  # As mixed by mixup.
    model = Distillation(taught, frozen, kind, alpha=0.3, temperature=2.0)
    model.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    outputs = model(x, training=True)
    loss = float(model.compute_loss(x, labels, outputs))
    target = array(frozen(seen(x, (40, 24)).astype("float32")))
    own = distilled = logits = array(taught(x))
    if token:
        tokens = keras.Model(taught.inputs, taught.get_layer("norm").output)(x)
        own, distilled = (
            array(taught.get_layer(name)(tokens[:, index]))
            for index, name in enumerate(("classifier", "distillation_classifier"))
        )
        np.testing.assert_allclose(logits, (own + distilled) / 2, atol=1e-5)
    first = -(labels * np.log(softmax(own))).sum(-1).mean()
    second = soft(target, distilled, 2.0) if kind == "soft" else hard(target, distilled)
    assert loss == pytest.approx(0.7 * first + 0.3 * second.mean(), rel=1e-4)
    np.testing.assert_allclose(array(model(x)), logits, atol=1e-5)
    # Evaluation compares the averaged logits with the labels only.
    tested = model.evaluate(x, labels, verbose=0)
    expected = -(labels * np.log(softmax(logits))).sum(-1).mean()
    assert tested == pytest.approx(expected, rel=1e-4)


def test_only_the_student_trains():
    taught = student(dropout_rate=0.1, num_layers=1)
    frozen = perturb(tiny_vit(**LOGITS, num_layers=1), seed=1)
    model = Distillation(taught, frozen)
    before = [array(w).copy() for w in (*taught.weights, *frozen.weights)]
    optimizer = AdamW(1e-2, ema_decay=0.9, gradient_accumulation_steps=2)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, weighted_metrics=["accuracy"])
    x = images(8)
    data = {"y": np.arange(8) % 5, "sample_weight": np.ones(8, "float32")}
    model.fit(x, **data, batch_size=2, verbose=0)
    after = [array(w) for w in (*taught.weights, *frozen.weights)]
    changed = [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert all(changed[: len(taught.weights)])
    assert not any(changed[len(taught.weights) :])
    own = {id(w) for w in taught.trainable_variables}
    assert {id(w) for w in model.trainable_variables} == own
    assert model.count_params() == taught.count_params()
    assert set(model.weights_by_path()) == set(taught.weights_by_path())
    logits = array(taught(x))
    with optimizer.averaged_weights(model):
        assert np.abs(array(taught(x)) - logits).max() > 1e-3
    np.testing.assert_array_equal(array(taught(x)), logits)


@pytest.mark.parametrize(
    "make", [tiny_vit, pytest.param(tiny_bit, marks=pytest.mark.any_backend)]
)
def test_gray_images_reach_the_teacher_in_color(make):
    gray = student(input_shape=(16, 24, 1))
    x = images(shape=(16, 24, 1))
    frozen = teacher(make)
    target = array(frozen(seen(np.repeat(x, 3, -1), (40, 24)).astype("float32")))
    model = Distillation(gray, frozen)
    np.testing.assert_allclose(array(model._teacher_logits(x, None)), target, atol=1e-4)


def test_teachers_of_other_kinds():
    # Any Keras model gets pixels; a softmax is undone up to a constant.
    plain = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5, activation="softmax"),
        ]
    )
    model = Distillation(student(), plain, "soft")
    logits = array(model._teacher_logits(images(), None))
    expected = array(plain(images() * 127.5 + 127.5))
    np.testing.assert_allclose(softmax(logits), expected, atol=1e-5)
    nested = keras.Sequential([keras.Input((16, 24, 3)), plain])
    parts = (*plain.layers[:-1], keras.layers.Dense(5), keras.layers.Softmax())
    ending = keras.Sequential([keras.Input((16, 24, 3)), *parts])
    for other in (nested, ending):
        model = Distillation(student(), other, "soft")
        logits = array(model._teacher_logits(images(), None))
        expected = array(other(images() * 127.5 + 127.5))
        np.testing.assert_allclose(softmax(logits), expected, atol=1e-5)
    # KerasHub's models have another kind of preprocessor.
    plain.preprocessor = object()
    with pytest.raises(ValueError, match="a preprocessor of its own kind, a object"):
        Distillation(student(), plain)
    # Logits that were computed before.
    model = Distillation(student(), None, "soft", alpha=1.0)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    y = {"labels": np.arange(4), "teacher_logits": logits}
    assert np.isfinite(model.fit(images(), y, verbose=0).history["loss"]).all()
    with pytest.raises(ValueError, match="'labels' and 'teacher_logits'"):
        model.compute_loss(images(), np.arange(4), model(images(), training=True))


def test_round_trip_and_resize(tmp_path):
    model = Distillation(student(), teacher(), "soft", 0.2, 4.0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(array(again(images())), array(model(images())), atol=1e-6)
    x = images()
    for part in (again, model.resized((16, 24, 3))):
        np.testing.assert_allclose(
            array(part._teacher_logits(x, None)),
            array(model._teacher_logits(x, None)),
            atol=1e-5,
        )
    larger = model.resized((32, 24, 3))
    assert larger.input_shape == (None, 32, 24, 3)
    assert larger.teacher is model.teacher
    model.student.save(tmp_path / "student.keras")
    loaded = keras_vit.load_checkpoint(tmp_path / "student.keras")
    np.testing.assert_allclose(array(loaded(x)), array(model(x)), atol=1e-6)


@pytest.mark.any_backend
def test_errors():
    taught, frozen = student(), teacher()
    names = {"class_names": list("abcde")}
    for arguments, message in [
        ((taught, frozen, "middle"), "Unknown kind 'middle'; choose one of 'hard', 's"),
        ((taught, frozen, "hard", 1.5), "alpha must be a number from 0 to 1; received"),
        ((taught, frozen, "soft", 0.5, 0), "temperature must be a number above 0"),
        ((tiny_vit(), frozen), "classifier_activation='softmax'"),
        ((tiny_vit(include_top=False), frozen), "include_top=False"),
        ((taught, tiny_vit(include_top=False)), "which are features"),
        ((taught, tiny_vit(classes=6)), r"\(None, 6\), and the student has 5 classes"),
        ((taught, tiny_vit(classifier_activation="sigmoid")), "is 'sigmoid'"),
        ((taught, taught), "The teacher is the student"),
        ((taught, tiny_vit(input_shape=(8, 8, 4))), "have 3 channels, the teacher's 4"),
        (
            (student(**names), tiny_vit(class_names=list("abced"))),
            "label 3 is 'd' in the student and 'e' in the teacher",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            Distillation(*arguments)
    model = Distillation(taught, frozen)
    model.compile(loss=keras.losses.CategoricalCrossentropy())
    assert model.teacher is frozen


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "overrides", [{}, {"class_token_position": False}, {"positions": "sincos_2d"}]
)
def test_a_token_that_starts_from_the_class_token(overrides):
    model = perturb(tiny_vit(**LOGITS, **overrides, registers=1))
    new = with_distillation_token(model)
    values, before = new.weights_by_path(), model.weights_by_path()
    expected = {path: array(w) for path, w in before.items()}
    table = "patch_encoder/positions/embedding"
    if table in expected and not overrides:
        rows = [0, *range(expected[table].shape[1])]
        expected[table] = expected[table][:, rows]
    encoder = "patch_encoder/"
    expected[f"{encoder}distillation_token"] = expected[f"{encoder}class_token"]
    for name in ("kernel", "bias"):
        expected[f"distillation_classifier/{name}"] = expected[f"classifier/{name}"]
    assert set(values) == set(expected)
    for path, value in expected.items():
        np.testing.assert_array_equal(array(values[path]), value, err_msg=path)
    # Both tokens are equal and stay so, thus both heads have the same logits.
    heads = Distillation(new).call(images(), training=True)
    own, taught = (array(heads[f"{n}_logits"]) for n in ("class", "distillation"))
    np.testing.assert_allclose(own, taught, atol=1e-5)
    with pytest.raises(ValueError, match="received pooling='token' and distillation_t"):
        with_distillation_token(new)
    with pytest.raises(ValueError, match="received pooling='gap'"):
        with_distillation_token(tiny_vit(pooling="gap"))
