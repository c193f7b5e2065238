"""Configs: typed, overridden by name, the same after JSON."""

import json

import pytest

import keras_vit
from recipes import config as configs
from recipes.objectives import constructor

pytestmark = pytest.mark.any_backend

NAMES = configs.names()


@pytest.mark.parametrize("name", NAMES)
def test_every_config(name):
    config = configs.load(name)
    again = configs.from_dict(json.loads(json.dumps(configs.to_dict(config))))
    assert configs.to_dict(again) == configs.to_dict(config)
    assert name in config.command
    assert config.measured.startswith(("measured on ", "not measured here"))
    assert hasattr(keras_vit, config.model.architecture)


def test_override():
    config = configs.load("digits_vit")
    changed = configs.override(
        config,
        [
            "epochs=3",
            "optimization.learning_rate=1",
            "optimization.frozen=['block_0']",
            "optimization.ema=0.9",
            "model.arguments.dropout_rate=0.1",
            "data.test=None",
            "data.train=tfds:cifar10",
            "augmentation.crop_area=(0.05, 1.0)",
        ],
    )
    assert changed.epochs == 3
    assert changed.optimization.learning_rate == 1.0
    assert changed.optimization.frozen == ("block_0",)
    assert changed.optimization.ema == 0.9
    assert changed.model.arguments == {**config.model.arguments, "dropout_rate": 0.1}
    assert changed.data.test is None
    assert changed.data.train == "tfds:cifar10"
    assert changed.augmentation.crop_area == (0.05, 1.0)
    assert config.epochs == 60


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs", "takes key=value"),
        ("epoch=3", r"Unknown key 'epoch'.*Did you mean epochs"),
        ("learning_rate=3", r"Did you mean .*learning_rate"),
        ("optimization.lr=3", r"Optimization has optimizer, learning_rate"),
        ("epochs=3.5", r"epochs must be int; received 3\.5"),
        ("epochs=many", "epochs must be int; received 'many'"),
        ("optimization.ema=yes", "ema must be float or None; received 'yes'"),
        ("data.download=1", "download must be bool; received 1"),
        ("optimization=3", r"optimization has parts"),
        ("epochs.more=3", "epochs is one value"),
        ("augmentation.mixup=-1", "mixup must be 0 or more"),
    ],
)
def test_bad_settings(setting, message):
    with pytest.raises(ValueError, match=message):
        configs.override(configs.load("digits_vit"), [setting])


def test_bad_names():
    with pytest.raises(ValueError, match=r"Near: digits_vit"):
        configs.load("digit_vit")
    config = configs.load("digits_vit")
    config = configs.override(config, ["model.architecture=ViTS17"])
    with pytest.raises(ValueError, match=r"'ViTS17' is no constructor"):
        constructor(config)
