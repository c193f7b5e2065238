"""Weights that a run freezes, and learning rates of parts of a model."""

import pytest

from keras_vit.training import compilation, runs
from keras_vit.training import config as configs


@pytest.fixture(scope="module")
def config():
    small = [
        "model.arguments.input_shape=(16, 16, 1)",
        "model.arguments.patch_size=4",
        "model.arguments.hidden_dim=32",
        "model.arguments.mlp_dim=48",
        "model.arguments.num_layers=1",
    ]
    return configs.override(configs.load("digits_vit"), small)


def test_rates_and_frozen_parts(config):
    changed = configs.override(
        config,
        [
            "model.arguments.num_layers=2",
            "optimization.layer_decay=0.5",
            "optimization.backbone_multiplier=0.1",
            "optimization.frozen=['patch_encoder']",
            "optimization.weight_decay=0.1",
        ],
    )
    plan = runs.make_plan(changed)
    model = plan.objective.build()
    compilation.compile(model, plan)
    rows = {row.path: row for row in model.optimizer.parameters}
    assert not any(path.startswith("patch_encoder") for path in rows)
    assert rows["classifier/kernel"].rate == 1.0
    assert rows["classifier/kernel"].weight_decay == 0.1
    assert rows["block_1/mlp/expand/kernel"].rate == pytest.approx(0.05)
    assert rows["block_0/mlp/expand/bias"].rate == pytest.approx(0.025)
    assert rows["block_0/mlp/expand/bias"].weight_decay == 0.0


def frozen_by(plan, *frozen):
    model = plan.objective.build()
    for layer in model.layers[:-1]:  # Checkpoints may be saved with this setting.
        layer.trainable = False
    compilation.freeze(model, frozen)
    return {path for path, w in model.weights_by_path().items() if not w.trainable}


@pytest.mark.any_backend
def test_frozen_paths(config):
    plan = runs.make_plan(configs.override(config, ["model.arguments.num_layers=2"]))
    assert frozen_by(plan) == set()
    found = frozen_by(plan, "block_0/attention")
    assert len(found) == 4
    assert all(path.startswith("block_0/attention/") for path in found)
    assert frozen_by(plan, "block_0/attention/") == found
    assert frozen_by(plan, "norm/gamma", "patch_encoder/pos") == {
        "norm/gamma",
        "patch_encoder/positions/embedding",
    }
    blocks = frozen_by(plan, "block_")
    assert {path.split("/")[0] for path in blocks} == {"block_0", "block_1"}
    for wrong, message in (
        ("blok_0", "begins with 'blok_0'. Did you mean 'block_0'"),
        ("", "begins with ''"),
        ("block_0/attention/kernel", "no weight has a path"),
    ):
        with pytest.raises(ValueError, match=message):
            frozen_by(plan, wrong)
    with pytest.raises(ValueError, match="leaves nothing to train"):
        frozen_by(plan, "patch_encoder", "block_", "norm", "classifier")


@pytest.mark.any_backend
def test_the_kernels_under_lora_stay_frozen(config):
    model = runs.make_plan(config).objective.build()
    model.get_layer("block_0").mlp.expand.enable_lora(2)
    compilation.freeze(model, ())
    frozen = [w.path for w in model.weights if not w.trainable]
    assert frozen == ["block_0/mlp/expand/kernel"]


def test_an_unknown_frozen_path_leaves_no_directory(config, tmp_path):
    wrong = configs.override(config, ["optimization.frozen=['blok_0']"])
    with pytest.raises(ValueError, match="blok_0"):
        runs.train(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()
