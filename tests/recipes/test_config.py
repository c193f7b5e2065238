"""Configs: typed, overridden by name, the same after JSON."""

import inspect
import json
import math

import pytest

import keras_vit
from keras_vit.models.variants import VIT_SIZES
from recipes import config as configs
from recipes import sweep
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


@pytest.mark.parametrize("name", NAMES)
def test_the_model_of_every_config(name):
    # Without building it: some have 300 million parameters. Augmentations and sizes of
    # layers check themselves.
    model = configs.load(name).model
    takes = set(inspect.signature(keras_vit.ViT).parameters)
    if model.architecture.startswith("T2TViT"):
        takes |= set(inspect.signature(keras_vit.T2TViT).parameters) - {"kwargs"}
        takes -= {"patch_size", "stem"}
    # What `recipes.objectives` settles.
    takes -= {"classes", "include_top", "classifier_activation", "preprocessor"}
    assert set(model.arguments) <= takes - {"weights", "name", "dtype"}

    patch = VIT_SIZES.get(model.architecture, (16,))[0]
    stride = model.arguments.get("patch_size", patch)
    if "stem" in model.arguments:
        stride *= 2 ** (1 + len(model.arguments["stem"]["num_blocks"]))
    sides = model.arguments.get("input_shape", [224, 224, 3])[:2]
    sides += [side for _, side in configs.load(name).resolutions]
    assert [side % stride for side in sides] == [0] * len(sides)


@pytest.mark.parametrize("name", NAMES)
def test_where_every_config_begins_and_ends(name):
    config = configs.load(name)
    command, weights = config.command.split(), config.model.weights
    assert command[-2] == "--workdir"
    given = [word for word in command if word.startswith("model.weights=")]
    beginnings = len(given) + (weights is not None)
    if "recipes.sweep" not in command:  # Which may be of either.
        assert beginnings == ("recipes.finetune" in command)
    if given:
        # The last or best model of another config's run.
        run, _, file = given[0].removeprefix("model.weights=").rpartition("/")
        assert run in [configs.load(other).command.split()[-1] for other in NAMES]
        assert file in ("best.keras", "last.keras")
    elif weights is not None:
        assert weights in keras_vit.checkpoints()
    assert ("recipes.sweep" in command) == bool(config.grid)
    if config.grid:
        number = math.prod(len(values) for values in config.grid.values())
        assert len(sweep.combinations(config, config.grid)) == number
    if config.steps is not None:
        assert config.steps % config.checkpoint_steps == 0
        assert config.steps % config.optimization.accumulation_steps == 0
    parts = [part for part, _ in config.resolutions]
    assert not parts or math.isclose(sum(parts), 1.0)


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
        ("optimization.learning_rate=1e999", "learning_rate must be float; received inf"),
        ("optimization.learning_rate=1" + "0" * 400, "learning_rate must be float; rec"),
        ("epochs=" + "[" * 10_000, r"epochs must be int; received '\[\["),
        ("epochs=1" + "0" * 5000, "epochs must be int; received '1000"),
        ("epochs={[]: 1}", r"epochs must be int; received '\{\[\]: 1\}'"),
        ("epochs=True", "epochs must be int; received True"),
        (
            "optimization.frozen=[1]",
            r"frozen must be tuple; received \[1\]",
        ),
    ],
)
def test_bad_settings(setting, message):
    with pytest.raises(ValueError, match=message):
        configs.override(configs.load("digits_vit"), [setting])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"about"', "is not readable JSON"),
        ("[" * 100_000, "is not readable JSON: nested too deeply"),
        ("[]", "holds no JSON object"),
        ("{}", "is no config: about, command, hardware, expected is missing"),
        ('{"model": 3}', "is no config: Model must be an object; received 3"),
        ('{"epochs": NaN}', "NaN is not JSON"),
        ('{"seed": "0"}', "is no config: seed must be int; received '0'"),
        ('{"model": {"arguments": []}}', "is no config: arguments must be dict"),
    ],
)
def test_a_json_that_is_no_config(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"config\.json.* {message}"):
        configs.load(str(path))


def test_bad_names():
    with pytest.raises(ValueError, match=r"Near: digits_vit"):
        configs.load("digit_vit")
    config = configs.load("digits_vit")
    config = configs.override(config, ["model.architecture=ViTS17"])
    with pytest.raises(ValueError, match=r"'ViTS17' is no constructor"):
        constructor(config)
