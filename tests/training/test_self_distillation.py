"""Self-distillation (DINO): crops, formulas, and runs."""

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.data import Augmentation, MultiCrop, open_source, training_batches
from keras_vit.training import SelfDistillation, runs
from keras_vit.training import config as configs
from keras_vit.training.distillation_head import DistillationHead
from keras_vit.training.self_distillation import (
    cross_entropy,
    teacher_momentum,
    teacher_temperature,
)
from tests.cases import (
    array,
    output_and_gradients,
    perturb,
    random_array,
    tiny_vit,
    weights_of,
)
from tests.training.interruptions import train_to_next_checkpoint
from tests.training.test_pixel_prediction import log_softmax
from tests.training.test_runs import assert_same_state

CROPS = MultiCrop(local_crops=3, local_size=(8, 16))
NUMBERS = {"prototypes": 12, "head_dim": 10, "bottleneck_dim": 6, "steps": 8}
SETTINGS = [
    "steps=4",
    "checkpoint_steps=2",
    "batch_size=8",
    "jit_compile=False",
    "model.arguments.hidden_dim=16",
    "model.arguments.mlp_dim=24",
    "model.arguments.num_layers=1",
    "model.arguments.num_heads=2",
    "model.arguments.stochastic_depth_rate=0.1",
    "dino.local_crops=2",
    "dino.prototypes=12",
    "dino.head_dim=10",
    "dino.bottleneck_dim=6",
    "data.test=None",
]


def model_of(crops=CROPS, backbone=None, **numbers):
    backbone = backbone or tiny_vit(include_top=False, num_layers=1)
    return SelfDistillation(backbone, crops, **{**NUMBERS, **numbers})


def crops_of(model, count=2):
    shapes = model.crops.shapes(model.input_shape[1:])
    return {
        key: random_array(count, *shape, seed=number)
        for number, (key, shape) in enumerate(shapes.items())
    }


def gelu(x):
    from scipy.special import erf

    return x * (1 + erf(x / np.sqrt(2))) / 2


def head(x, w):
    for name in ("hidden_0", "hidden_1"):
        x = gelu(x @ w[f"{name}/kernel"] + w[f"{name}/bias"])
    x = x @ w["bottleneck/kernel"] + w["bottleneck/bias"]
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return x @ (w["prototypes"] / np.linalg.norm(w["prototypes"], axis=0))


def test_formula_of_the_head():
    layer = DistillationHead(7, 6, 5, name="head")
    layer.build((None, 4))
    perturb(layer)
    x = random_array(3, 4)
    expected = head(x, weights_of(layer))
    np.testing.assert_allclose(array(layer(x)), expected, atol=1e-5)
    assert layer.compute_output_shape((3, 4)) == expected.shape


@pytest.mark.any_backend
def test_cross_entropy_of_all_pairs():
    p = np.exp(log_softmax(random_array(4, 2, 6).astype("float64")))
    q = log_softmax(random_array(4, 5, 6, seed=1).astype("float64"))
    pairs = [(t, s) for t in range(2) for s in range(5) if s != t]
    losses = [-(p[:, t] * q[:, s]).sum(-1) for t, s in pairs]
    expected = np.mean(losses, axis=0)
    found = cross_entropy(*(keras.ops.convert_to_tensor(x, "float32") for x in (p, q)))
    np.testing.assert_allclose(array(found), expected, rtol=1e-5)


@pytest.mark.any_backend
def test_schedules():
    numbers = {
        "momentum": 0.9,
        "steps": 100,
        "warmup_temperature": 0.04,
        "teacher_temperature": 0.08,
        "warmup": 0.3,
    }
    found = [float(teacher_momentum(step, numbers)) for step in (0, 50, 100, 101)]
    np.testing.assert_allclose(found, [0.9, 0.95, 1, 1], rtol=1e-6)
    found = [float(teacher_temperature(step, numbers)) for step in (0, 15, 30, 90)]
    np.testing.assert_allclose(found, [0.04, 0.06, 0.08, 0.08], rtol=1e-5)


@pytest.mark.slow_elsewhere
def test_formula():
    """Compare one step of training with a formula."""
    model = perturb(model_of(momentum=0.5))
    model.network.step.assign(3)
    crops = crops_of(model)
    student = weights_of(model.network.head)
    teacher = {
        path.removeprefix("teacher-head-").replace("-", "/"): array(w)
        for path, w in model.weights_by_path().items()
        if path.startswith("teacher-head-")
    }
    assert set(teacher) == set(student)
    before = array(model.network.center).copy()
    outputs = {k: array(v) for k, v in model(crops, training=True).items()}
    m = 1 - 0.5 * (1 + np.cos(np.pi * 2 / 8)) / 2
    updated = {path: m * teacher[path] + (1 - m) * w for path, w in student.items()}
    averages = model.teacher()
    features = [
        array(averages(crops["global_crops"][:, view])).astype("float64")
        for view in range(2)
    ]
    logits = np.stack([head(x, updated) for x in features], axis=1)
    centered = (logits - before) / 0.07  # The warm-up has 0.3 * 8 steps.
    p = np.exp(log_softmax(centered))
    np.testing.assert_allclose(outputs["teacher"], p, atol=2e-4)
    center = 0.9 * before + 0.1 * logits.mean((0, 1))
    np.testing.assert_allclose(array(model.network.center), center, atol=1e-5)
    assert int(array(model.network.step)) == 4
    views = [model.backbone(crops["global_crops"][:, view]) for view in range(2)]
    small = crops["local_crops"]
    resized = model.backbone.resized((8, 16, 3))
    views += [resized(small[:, view]) for view in range(3)]
    logits = np.stack([head(array(x).astype("float64"), student) for x in views], axis=1)
    np.testing.assert_allclose(outputs["student"], log_softmax(logits / 0.1), atol=1e-3)


@pytest.mark.any_backend
def test_the_teacher_starts_as_the_student_and_is_not_trained():
    model = model_of(momentum=0.5)
    images = random_array(4, 16, 24, 3)
    np.testing.assert_array_equal(
        array(model.teacher()(images)), array(model.backbone(images))
    )
    trained = {id(w) for w in model.trainable_variables}
    paths = model.weights_by_path()
    assert len(paths) == len(model.weights)
    for path, weight in paths.items():
        fixed = path.startswith("teacher-") or path in ("center", "step")
        assert (id(weight) in trained) == (not fixed), path
    model.compile(keras.optimizers.SGD(0.5), jit_compile=False)
    for _ in range(3):
        model.train_on_batch(crops_of(model, 4))
    teacher, student = array(model.teacher()(images)), array(model.backbone(images))
    assert np.abs(teacher - student).max() > 1e-4


@pytest.mark.any_backend
def test_the_last_layer_is_frozen_first():
    layer = DistillationHead(7, 6, 5)
    layer.build((None, 4))

    def call(prototypes, frozen):
        with keras.StatelessScope(state_mapping=[(layer.last, prototypes)]):
            return layer(random_array(3, 4), frozen=frozen)

    prototypes = array(layer.last)
    for frozen in (True, False):
        _, (gradient,) = output_and_gradients(
            lambda x, frozen=frozen: call(x, frozen), [prototypes], random_array(3, 7)
        )
        assert np.any(gradient != 0) == (not frozen)


@pytest.mark.any_backend
def test_the_first_steps_do_not_train_the_last_layer():
    model = model_of(frozen=0.5, steps=2)
    model.compile(keras.optimizers.SGD(0.5), jit_compile=False)
    last = model.network.head.last
    prototypes = [array(last).copy()]
    for _ in range(2):
        model.train_on_batch(crops_of(model, 4))
        prototypes.append(array(last).copy())
    np.testing.assert_array_equal(prototypes[1], prototypes[0])
    assert np.abs(prototypes[2] - prototypes[1]).max() > 1e-6


@pytest.mark.any_backend
def test_crops_of_images():
    source = open_source("digits:test")
    preprocessor = keras_vit.layers.Preprocessor(image_size=(16, 16))
    crops = MultiCrop(3, (8, 8), global_area=(1.0, 1.0), local_area=(0.2, 0.4))
    arguments = (source, preprocessor, Augmentation(), 16, 3)
    whole = [images for images, _ in training_batches(*arguments, crops=crops).take(3)]
    assert whole[0]["global_crops"].shape == (16, 2, 16, 16, 1)
    assert whole[0]["local_crops"].shape == (16, 3, 8, 8, 1)
    local = whole[0]["local_crops"].numpy()
    assert not np.array_equal(local[:, 0], local[:, 1])
    plain = next(iter(training_batches(*arguments)))[0].numpy()
    # A crop of the whole area with another aspect differs from the image.
    assert np.abs(whole[0]["global_crops"][:, 0] - plain).mean() < 0.5
    later = next(iter(training_batches(*arguments, first_step=2, crops=crops)))[0]
    for key, values in later.items():
        np.testing.assert_array_equal(values, whole[2][key])
    with pytest.raises(ValueError, match="cannot be mixed"):
        training_batches(*arguments[:2], Augmentation(mixup=0.2), 16, 3, crops=crops)


@pytest.mark.any_backend
def test_the_model_in_a_config():
    model = perturb(model_of())
    again = SelfDistillation.from_config(model.get_config())
    again.set_weights(model.get_weights())
    assert again.crops == model.crops
    crops = crops_of(model)
    for name, value in model(crops).items():
        np.testing.assert_array_equal(array(again(crops)[name]), array(value))


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: model_of(backbone=tiny_vit()), "include_top=True"),
        (
            lambda: model_of(backbone=tiny_vit(include_top=False, positions="sincos_2d")),
            "positions='learned' or 'none'.*sincos_2d",
        ),
        (
            lambda: model_of(backbone=tiny_vit(include_top=False, token_reduction=2)),
            "token_reduction=None",
        ),
        (lambda: model_of(MultiCrop(2, (7, 8))), "7x8"),
        (lambda: model_of(momentum=1.5), "momentum must be a number from 0 to 1"),
        (lambda: model_of(prototypes=1), "prototypes must be an int from 2"),
        (lambda: MultiCrop(local_crops=0), "local_crops must be a positive int"),
        (lambda: MultiCrop(local_size=(8,)), "local_size must be two positive ints"),
        (lambda: MultiCrop(local_area=(0.5, 0.2)), "crop_area must be two numbers"),
    ],
)
def test_arguments_that_do_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.any_backend
def test_crops_are_checked():
    model = model_of()
    with pytest.raises(ValueError, match="takes a dict of global_crops and local_crops"):
        model.predict(random_array(2, 16, 24, 3))
    crops = crops_of(model)
    with pytest.raises(ValueError, match="local_crops must have shape"):
        model.fit({**crops, "local_crops": crops["local_crops"][:, :2]})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Train a run without interruption."""
    directory = tmp_path_factory.mktemp("dino") / "run"
    config = configs.override(configs.load("digits_dino"), SETTINGS)
    return config, directory, runs.train(config, directory)


@pytest.mark.slow
def test_a_stopped_run_ends_as_one_that_was_not(whole, tmp_path, monkeypatch):
    config, directory, _ = whole
    train_to_next_checkpoint(config, tmp_path / "run", monkeypatch)
    runs.train(config, tmp_path / "run")
    assert_same_state(tmp_path / "run", directory)


@pytest.mark.slow_elsewhere
def test_what_a_run_saves(whole):
    _, directory, results = whole
    assert results["step"] == 4  # The last checkpoint is the best one.
    saved = keras_vit.load_checkpoint(directory)
    assert isinstance(saved, keras_vit.ViT)
    assert not saved.get_config()["include_top"]


@pytest.mark.any_backend
def test_collapsed_outputs_of_the_teacher_are_a_warning():
    objective = runs.make_plan(configs.load("digits_dino")).objective
    uniform = {"step": 90, "val_entropy": objective.loss_of_guessing() - 0.01}
    assert "are uniform" in objective.warning(uniform, 100)
    single = {**uniform, "val_entropy": 0.01}
    assert "are a single prototype" in objective.warning(single, 100)
    assert objective.warning({**uniform, "step": 10}, 100) is None
    assert objective.warning({**uniform, "val_entropy": 3.0}, 100) is None
