import dataclasses

import keras
import numpy as np
import pytest

from keras_vit.evaluation.accuracy import evaluate
from keras_vit.models.adapt import adapted
from keras_vit.training import FlexiblePatches
from keras_vit.training import config as configs
from keras_vit.training.runs import train
from tests.cases import array, perturb, random_array, tiny_vit

SHAPE = (24, 48, 3)


def backbone(**overrides):
    # The underlying patches of 8 have a grid of 2x3.
    return perturb(tiny_vit(classifier_activation=None, **overrides))


def images(batch=3):
    return random_array(batch, *SHAPE)


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("size", [4, 8, 12])
def test_outputs_are_those_of_the_resized_model(size):
    network = backbone(registers=1)
    model = FlexiblePatches(network, (4, 8, 12), SHAPE[:2], size)
    assert model.preprocessor.image_size == SHAPE[:2]
    resized = adapted(network, {"patch_size": size, "input_shape": SHAPE})
    expected = array(resized(images()))
    np.testing.assert_allclose(array(model(images())), expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_every_step_draws_a_size_and_trains_the_underlying_weights():
    network = backbone(pooling="gap")
    model = FlexiblePatches(network, (4, 8, 12), SHAPE[:2], seed=1)
    outputs = {
        size: array(FlexiblePatches(network, (8,), SHAPE[:2], size)(images()))
        for size in (4, 8, 12)
    }

    def drawn(model):
        found = array(model(images(), training=True))
        (size,) = [s for s, x in outputs.items() if np.allclose(found, x, atol=1e-4)]
        return size

    sizes = [drawn(model) for _ in range(12)]
    assert set(sizes) == {4, 8, 12}
    if keras.backend.backend() != "torch":  # Torch draws from its own generator.
        again = FlexiblePatches(network, (4, 8, 12), SHAPE[:2], seed=1)
        assert [drawn(again) for _ in range(6)] == sizes[:6]
        # A run saves the state of the draws and resumes with it.
        resumed = FlexiblePatches(network, (4, 8, 12), SHAPE[:2], seed=5)
        (state,), (saved,) = (
            [v for v in m.non_trainable_variables if "seed" in v.path]
            for m in (resumed, again)
        )
        state.assign(saved)
        assert [drawn(resumed) for _ in range(6)] == sizes[6:]
    before = {path: array(w).copy() for path, w in model.weights_by_path().items()}
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    model.fit(images(), np.arange(3), batch_size=1, epochs=2, verbose=0)
    after = model.weights_by_path()
    for path in ("patch_encoder/projection/kernel", "patch_encoder/positions/embedding"):
        assert np.abs(array(after[path]) - before[path]).max() > 1e-5


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"positions": "sincos_2d"}, "needs positions='learned' or 'none'"),
        ({"positions": "relative"}, "needs positions='learned' or 'none'"),
        ({"dropout_rate": 0.1}, "needs dropout_rate=0.0; received 0.1"),
        ({"distillation_token": True}, "needs distillation_token=False"),
    ],
)
def test_backbones(overrides, message):
    with pytest.raises(ValueError, match=message):
        FlexiblePatches(tiny_vit(**overrides), (4, 8))


@pytest.mark.any_backend
def test_patch_sizes():
    with pytest.raises(ValueError, match="patches of 7x7"):
        FlexiblePatches(tiny_vit(), (4, 7))
    with pytest.raises(ValueError, match="empty"):
        FlexiblePatches(tiny_vit(), ())


@pytest.mark.any_backend
def test_round_trip(tmp_path):
    model = FlexiblePatches(backbone(), (4, 8), SHAPE[:2])
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(array(again(images())), array(model(images())), atol=1e-6)


@pytest.mark.slow
def test_one_checkpoint_is_evaluated_at_three_patch_sizes(tmp_path):
    config = configs.override(
        configs.load("flexivit_digits"),
        [
            "model.arguments.num_layers=2",
            "model.arguments.hidden_dim=48",
            "epochs=12",
            "data.test=None",
        ],
    )
    train(config, str(tmp_path / "run"))
    accuracies = {}
    for size in (8, 16, 32):
        evaluated = dataclasses.replace(
            config,
            model=configs.Model(
                weights=str(tmp_path / "run" / "best.keras"),
                arguments={"input_shape": [64, 64, 1], "patch_size": size},
            ),
        )
        accuracies[size] = evaluate(evaluated)["accuracy"]
    assert min(accuracies.values()) > 0.6, accuracies
