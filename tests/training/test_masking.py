"""Behavior that both objectives with masked patches share."""

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.layers import ResNetStem
from keras_vit.training import (
    AdamW,
    MaskedAutoencoder,
    MaskedPatchPrediction,
    parameter_table,
)
from tests.cases import array, perturb, random_array, random_images, tiny_t2t, tiny_vit

# Compilation with XLA is slow under TensorFlow.
FAST = keras.backend.backend() == "jax"
OBJECTIVES = {
    "mpp": (MaskedPatchPrediction, {}),
    "mae": (
        MaskedAutoencoder,
        {"decoder_dim": 8, "decoder_layers": 1, "decoder_heads": 2},
    ),
}
BACKBONES = {
    "everything": {
        "pooling": "gap",
        "final_norm": "after_pooling",
        "registers": 2,
        "layer_scale": 0.1,
        "positions": "learned_2d",
        "dropout_rate": 0.1,
        "stochastic_depth_rate": 0.1,
        "remat": True,
    },
    "tokens": {"pooling": None, "class_token": True, "distillation_token": True},
}


def backbone_of(**overrides):
    return tiny_vit(**{"patch_size": 4, "include_top": False, **overrides})


@pytest.fixture(params=OBJECTIVES)
def objective(request):
    """Return a function that creates the objective for a backbone."""
    kind, small = OBJECTIVES[request.param]

    def make(backbone=None, **arguments):
        backbone = backbone_of() if backbone is None else backbone
        return kind(backbone, **{"seed": 3, **small, **arguments})

    return make


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize(
    "backbone", ["everything", pytest.param("tokens", marks=pytest.mark.slow)]
)
def test_gradients_reach_every_weight(objective, backbone):
    # Perturb the weights: with a zero head, no other weight has a gradient.
    model = perturb(objective(backbone_of(**BACKBONES[backbone])))
    model.compile(keras.optimizers.SGD(1.0), jit_compile=FAST)
    before = {path: array(w).copy() for path, w in model.weights_by_path().items()}
    model.train_on_batch(random_images(model, 4))
    after = model.weights_by_path()
    assert set(model.backbone.weights_by_path()) < set(after)
    assert [
        path for path in after if np.array_equal(array(after[path]), before[path])
    ] == []


def coloured_images(count):
    """Return noisy images of one color each, in which a patch predicts all others."""
    colours = np.random.default_rng(0).choice([-0.9, 0.1, 0.9], (count, 1, 1, 3))
    return (colours + random_array(count, 16, 24, 3, scale=0.02)).astype("float32")


@pytest.mark.slow
@pytest.mark.any_backend
def test_fit_learns(objective):
    model = objective(backbone_of(num_layers=1), ratio=0.5)
    images = coloured_images(32)
    table = parameter_table(model, weight_decay=1e-4)
    model.compile(AdamW(2e-2, parameters=table), jit_compile=FAST)
    first = model.evaluate(images, verbose=0, return_dict=True)
    model.fit(images, epochs=15, verbose=0)
    last = model.evaluate(images, verbose=0, return_dict=True)
    assert last["loss"] < 0.8 * first["loss"]
    assert last == model.evaluate(images, verbose=0, return_dict=True)


@pytest.mark.any_backend
def test_half_precision_ends_before_the_head(objective):
    half = perturb(objective(backbone_of(dtype="mixed_bfloat16")))
    images = random_images(half, 3)
    outputs = half(images)
    loss = half.compute_loss(images, y_pred=outputs)
    for tensor in (loss, outputs["predictions"]):
        assert keras.backend.standardize_dtype(tensor.dtype) == "float32"
    assert half.get_layer("block_0").output.dtype == "bfloat16"
    predictions = array(outputs["predictions"])
    full = objective()
    full.set_weights(half.get_weights())
    difference = np.abs(predictions - array(full(images)["predictions"]))
    assert 0 < difference.max() < 0.1
    np.testing.assert_array_equal(
        array(half.targets(images)), array(full.targets(images))
    )


@pytest.mark.slow
@pytest.mark.any_backend
def test_a_dataset_with_labels_and_sample_weights(objective, tensorflow):
    model = perturb(objective(backbone_of(num_layers=1)))
    model.compile("sgd", jit_compile=FAST)
    images, weights = random_images(model, 5), np.array([1, 0, 1, 1, 0.5], "float32")
    data = tensorflow.data.Dataset.from_tensor_slices((images, np.zeros(5), weights))
    # The second batch is smaller.
    assert np.isfinite(model.fit(data.batch(3), verbose=0).history["loss"][0])
    weighted = model.evaluate(data.batch(5), verbose=0, return_dict=True)
    alone = model.evaluate(images, sample_weight=weights, verbose=0, return_dict=True)
    assert weighted == alone
    assert weighted != model.evaluate(images, verbose=0, return_dict=True)


@pytest.mark.slow
@pytest.mark.any_backend
def test_masks_differ_in_training_and_repeat_otherwise(objective):
    model = objective()
    images = random_images(model, 3)

    def drawn(**arguments):
        return array(model(images, **arguments)["patches"])

    np.testing.assert_array_equal(drawn(), drawn(training=False))
    (state,) = [v for v in model.non_trainable_variables if "seed" in v.path]
    before = array(state).copy()
    once, twice = drawn(training=True), drawn(training=True)
    assert not np.array_equal(once, twice)
    assert not np.array_equal(once[0], once[1])
    state.assign(before)
    np.testing.assert_array_equal(drawn(training=True), once)
    # The masks depend only on the seed.
    again = array(objective()(images, training=True)["patches"])
    np.testing.assert_array_equal(again, once)
    other = array(objective(seed=4)(images, training=True)["patches"])
    assert not np.array_equal(other, once)


@pytest.mark.any_backend
@pytest.mark.parametrize(("ratio", "number"), [(0.01, None), (0.25, 6), (0.7, 17)])
def test_ratio(objective, ratio, number):
    if number is None:
        with pytest.raises(ValueError, match=r"ratio=0.01 of the 24 patches.* is 0"):
            objective(ratio=ratio)
        return
    patches = array(objective(ratio=ratio)(random_array(3, 16, 24, 3))["patches"])
    assert patches.shape == (3, number)
    assert all(len(set(row)) == number for row in patches)
    assert patches.min() >= 0
    assert patches.max() < 24


@pytest.mark.parametrize("name", ["classifier", "map", "stem", "t2t", "not_a_vit"])
def test_backbones_that_do_not_fit(objective, name):
    backbones = {
        "classifier": (
            lambda: tiny_vit(),
            r"include_top=False.*received include_top=True",
        ),
        "map": (lambda: backbone_of(pooling="map"), r"pooling='map'"),
        "stem": (
            lambda: backbone_of(stem=ResNetStem((1,), width=32), patch_size=2),
            r"stem=None",
        ),
        "t2t": (lambda: tiny_t2t(include_top=False), "T2TViT overlap"),
        "not_a_vit": (keras.Sequential, r"must be a keras_vit.ViT.*Sequential"),
    }
    make, message = backbones[name]
    backbone = make()
    with pytest.raises(ValueError, match=message):
        objective(backbone)


@pytest.mark.parametrize("ratio", [0.0, 1, -0.5, float("nan"), "half"])
def test_ratios_out_of_range(objective, ratio):
    with pytest.raises(ValueError, match=r"ratio must be a number between 0 and 1"):
        objective(ratio=ratio)


def test_images_are_checked(objective):
    with pytest.raises(ValueError, match="floats that its preprocessor has scaled"):
        objective()(np.zeros((2, 16, 24, 3), "uint8"))


@pytest.mark.slow
@pytest.mark.any_backend
def test_the_backbone_is_saved_and_fine_tuned(objective, tmp_path):
    model = perturb(objective(backbone_of(pooling="gap", registers=1)))
    model.backbone.save(tmp_path / "backbone.keras")
    tuned = keras_vit.load_checkpoint(
        tmp_path / "backbone.keras", include_top=True, classes=10, head="new"
    )
    images = random_images(model)
    assert tuple(tuned(images).shape) == (2, 10)
    features = keras.Model(tuned.input, tuned.get_layer("pooling").output)
    np.testing.assert_array_equal(array(features(images)), array(model.backbone(images)))


@pytest.mark.any_backend
def test_the_whole_comes_back(objective, tmp_path):
    model = perturb(objective(ratio=0.3, name="given"))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.get_config() == model.get_config()
    images = random_images(model)
    for name, value in model(images).items():
        np.testing.assert_array_equal(array(again(images)[name]), array(value))
