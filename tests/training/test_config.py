"""Configs: families, users' own files, overriding values by name, JSON."""

import ast
import importlib
import inspect
import json
import math
import pathlib
import pkgutil
import re

import pytest

import keras_vit
import keras_vit.configs
from keras_vit.data.augment import Augmentation
from keras_vit.models.variants import VIT_SIZES
from keras_vit.training import config as configs
from keras_vit.training import sweep
from keras_vit.training.config_source import WIDTH, meanings, source_of
from keras_vit.training.networks import constructor
from tests.commands import run_command

pytestmark = pytest.mark.any_backend

NAMES = configs.names()
FAMILIES = [
    importlib.import_module(f"keras_vit.configs.{module.name}")
    for module in pkgutil.iter_modules(keras_vit.configs.__path__)
]


# Documents, scripts and old commands use these names.
PUBLISHED_NAMES = """
augreg_b16_imagenet1k augreg_b16_imagenet1k_finetune augreg_b16_imagenet21k
augreg_b16_imagenet21k_finetune augreg_s16_imagenet21k augreg_s16_imagenet21k_finetune
augreg_ti16_imagenet21k augreg_ti16_imagenet21k_finetune cifar10_adaptive cifar10_compact
cifar10_cpu cifar10_cpu_48 cifar10_deit cifar10_deit_plain cifar10_dino cifar10_gpu
cifar10_igpt cifar10_igpt_masked cifar10_mae cifar10_masked_patches cifar10_t2t_64
cifar10_teacher cifar10_vit_4 cifar10_vit_64 cifar10_vit_tiny deit_b16_distilled_imagenet
deit_b16_imagenet deit_b16_imagenet_384 deit_iii_b16_imagenet deit_iii_b16_imagenet21k
deit_iii_b16_imagenet21k_finetune deit_iii_b16_imagenet_224 deit_iii_b16_imagenet_384
deit_iii_l16_imagenet deit_iii_l16_imagenet21k deit_iii_l16_imagenet21k_finetune
deit_iii_l16_imagenet_224 deit_iii_l16_imagenet_384 deit_iii_s16_imagenet
deit_iii_s16_imagenet21k deit_iii_s16_imagenet21k_finetune deit_iii_s16_imagenet_384
deit_s16_distilled_imagenet deit_s16_imagenet deit_ti16_distilled_imagenet
deit_ti16_imagenet digits_adaptive digits_dino digits_igpt digits_igpt_masked digits_mae
digits_masked_patches digits_t2t digits_vit digits_vit_8 digits_vit_finetune
mae_b16_imagenet mae_b16_imagenet_finetune t2t_vit_14_cifar10_transfer
t2t_vit_14_imagenet t2t_vit_24_imagenet t2t_vit_7_imagenet vit_b16_cifar10
vit_b16_cifar100 vit_b16_flowers vit_b16_imagenet1k vit_b16_imagenet21k
vit_b16_imagenet_384 vit_b16_masked_patches vit_b16_masked_patches_finetune vit_b16_pets
vit_b16_vtab_dtd vit_l16_imagenet21k vit_s16_imagenet_300ep vit_s16_imagenet_90ep
"""


def test_no_name_is_lost():
    assert set(PUBLISHED_NAMES.split()) <= set(NAMES)


def test_no_two_families_use_the_same_name():
    assert sorted(name for family in FAMILIES for name in family.CONFIGS) == NAMES


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_a_family_imports_no_other_family(family):
    tree = ast.parse(pathlib.Path(family.__file__).read_text())
    statements = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    imported = " ".join(map(ast.unparse, statements))
    assert "keras_vit.training.config import" in imported
    assert "configs" not in imported
    assert "from ." not in imported


@pytest.mark.parametrize("name", NAMES)
def test_every_config(name):
    config = configs.load(name)
    again = configs.from_dict(json.loads(json.dumps(configs.to_dict(config))))
    assert configs.to_dict(again) == configs.to_dict(config)
    assert name in config.command
    assert config.measured.startswith(("measured on ", "not measured here"))
    assert hasattr(keras_vit, config.model.architecture)


# Config: learning rate, weight decay, batch size, epochs, and steps of warm-up or, below
# 1, their share. ViT: table 3 (arXiv:2010.11929); T2T-ViT: section 4.1 and its code
# (arXiv:2101.11986); DeiT: table 9 (arXiv:2012.12877) and its code; DeiT III: the
# commands of its code (arXiv:2204.07118).
PAPERS = {
    "vit_b16_imagenet1k": (3e-3, 0.3, 4096, 300, 10_000),
    "vit_b16_imagenet21k": (1e-3, 0.03, 4096, 90, 10_000),
    "deit_ti16_imagenet": (1e-3, 0.05, 1024, 300, 5 / 300),
    "deit_b16_distilled_imagenet": (1e-3, 0.05, 1024, 300, 5 / 300),
    "deit_b16_imagenet_384": (5e-6, 1e-8, 512, 30, 5 / 30),
    "deit_iii_s16_imagenet": (4e-3, 0.05, 2048, 800, 5 / 800),
    "deit_iii_l16_imagenet": (3e-3, 0.05, 2048, 800, 5 / 800),
    "deit_iii_b16_imagenet_224": (1e-5, 0.1, 512, 20, 5 / 20),
    "deit_iii_l16_imagenet_384": (1e-5, 0.1, 512, 20, 5 / 20),
    "deit_iii_b16_imagenet21k": (1e-3, 0.02, 2048, 240, 5 / 240),
    "deit_iii_b16_imagenet21k_finetune": (3e-4, 0.02, 2048, 50, 5 / 50),
    "t2t_vit_7_imagenet": (1e-3, 0.03, 512, 310, 10 / 310),
    "t2t_vit_14_imagenet": (5e-4, 0.05, 512, 310, 10 / 310),
    "t2t_vit_24_imagenet": (5e-4, 0.065, 512, 310, 10 / 310),
    "t2t_vit_14_cifar10_transfer": (0.05, 5e-3, 64, 60, 0),
}


@pytest.mark.parametrize("name", PAPERS)
def test_settings_of_the_papers(name):
    config = configs.load(name)
    settings = config.optimization
    assert (
        settings.learning_rate,
        settings.weight_decay,
        config.batch_size,
        config.epochs,
        settings.warmup_steps,
    ) == PAPERS[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_model_of_every_config(name):
    # The model is not built, because some have 300 million parameters. Augmentations and
    # layers check their own arguments.
    model = configs.load(name).model
    takes = set(inspect.signature(keras_vit.ViT.__init__).parameters)
    if model.architecture.startswith("T2TViT"):
        takes |= set(inspect.signature(keras_vit.T2TViT.__init__).parameters) - {"kwargs"}
        takes -= {"patch_size", "stem"}
    if model.architecture in ("BiT", "ImageGPT"):  # They are not a ViT.
        other = getattr(keras_vit, model.architecture)
        assert set(model.arguments) <= set(inspect.signature(other).parameters)
        return
    # The module `objectives` sets these arguments.
    takes -= {"classes", "include_top", "classifier_activation", "preprocessor"}
    assert set(model.arguments) <= takes - {"weights", "name", "dtype"}

    patch = VIT_SIZES.get(model.architecture, (16,))[0]
    stride = model.arguments.get("patch_size", patch)
    if "stem" in model.arguments:
        stem = model.arguments["stem"]
        # A ConvTokenizer halves with each convolution, a ResNetStem also in its root.
        halvings = len(stem.get("filters", ())) or 1 + len(stem["num_blocks"])
        stride *= 2**halvings
    sides = model.arguments.get("input_shape", [224, 224, 3])[:2]
    sides += [side for _, side in configs.load(name).resolutions]
    assert [side % stride for side in sides] == [0] * len(sides)


def test_t2t_vit_states_its_other_schedule():
    for name in ("t2t_vit_7_imagenet", "t2t_vit_14_imagenet", "t2t_vit_24_imagenet"):
        config = configs.load(name)
        assert config.optimization.cooldown_steps == 0
        assert f"Deviation: the cosine spans all {config.epochs} epochs" in config.about


@pytest.mark.parametrize("name", NAMES)
def test_where_every_config_begins_and_ends(name):
    config = configs.load(name)
    command, weights = config.command.split(), config.model.weights
    assert command[-2] == "--workdir"
    given = [word for word in command if word.startswith("model.weights=")]
    beginnings = len(given) + (weights is not None)
    if "sweep" not in command:  # A sweep may start from either.
        assert beginnings == ("finetune" in command)
    if given:
        # The weights are the last or best model of a run of another config.
        run, _, file = given[0].removeprefix("model.weights=").rpartition("/")
        assert run in [configs.load(other).command.split()[-1] for other in NAMES]
        assert file in ("best.keras", "last.keras")
    elif weights is not None:
        assert weights in keras_vit.checkpoints()
    assert ("sweep" in command) == bool(config.grid)
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
        ("[]", "must hold a JSON object"),
        ("{}", "is not a valid config: about, command, hardware, expected is missing"),
        ('{"model": 3}', "is not a valid config: Model must be an object; received 3"),
        ('{"epochs": NaN}', "NaN is not JSON"),
        ('{"seed": "0"}', "is not a valid config: seed must be int; received '0'"),
        ('{"model": {"arguments": []}}', "is not a valid config: arguments must be dict"),
    ],
)
def test_a_json_that_is_no_config(tmp_path, text, message):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"config\.json.* {message}"):
        configs.load(str(path))


MY_CONFIG = """
import dataclasses
from keras_vit.training.config import load
CONFIG = dataclasses.replace(load("digits_vit"), epochs=3)
"""


def test_a_config_of_a_users_own_file(tmp_path):
    path = tmp_path / "my_config.py"
    path.write_text(MY_CONFIG)
    mine = configs.load(str(path))
    assert mine == configs.override(configs.load("digits_vit"), ["epochs=3"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must set CONFIG to a keras_vit.training.config.Config; received no CONFIG"),
        ("CONFIG = {}", "received dict. .*new-config NAME prints a file to start from"),
        ("\n\nEPOCHS = 1 / 0", ", line 3: ZeroDivisionError: division by zero"),
        ("\nEPOCHS = ", ", line 2: SyntaxError: invalid syntax"),
        ("\n" + MY_CONFIG.replace("epochs", "epoch"), ", line 5: TypeError: .*'epoch'"),
        (MY_CONFIG.replace("3", "'3'"), "not valid: epochs must be int; received '3'"),
        (MY_CONFIG.replace("epochs=3", "grid={'seed': {1}}"), "set is not JSON"),
    ],
)
def test_a_file_that_sets_no_config(tmp_path, text, message):
    path = tmp_path / "my_config.py"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"my_config\.py.*{message}"):
        configs.load(str(path))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"new-config NAME > .*my_config\.py"):
        configs.load(str(path))


def test_bad_names():
    with pytest.raises(ValueError, match=r"Near: digits_vit"):
        configs.load("digit_vit")
    config = configs.load("digits_vit")
    config = configs.override(config, ["model.architecture=ViTS17"])
    with pytest.raises(ValueError, match=r"'ViTS17' is neither a constructor"):
        constructor(config)


@pytest.mark.parametrize("name", NAMES)
def test_a_printed_config_is_the_same_config(tmp_path, name):
    path = tmp_path / "my_config.py"
    path.write_text(source_of(name))
    assert configs.load(str(path)) == configs.load(name)
    assert max(map(len, path.read_text().splitlines())) <= WIDTH


def test_a_config_file_that_imports_augmentation_from_its_former_place(tmp_path):
    path = tmp_path / "my_config.py"
    text = source_of("digits_vit")
    path.write_text(text.replace("keras_vit.data.augment", "keras_vit.training.augment"))
    assert path.read_text() != text
    assert configs.load(str(path)) == configs.load("digits_vit")


def test_a_printed_config_explains_its_values(capsys):
    run_command("new-config", ["digits_vit"])
    printed = capsys.readouterr().out
    assert "\n    # Number of passes over the training set.\n    epochs=60,\n" in printed
    assert "# Defaults: optimizer=" in printed
    command = "finetune my_config.py --workdir runs/my_config --set model.weights=PATH"
    assert command in source_of("mae_b16_imagenet_finetune")
    with pytest.raises(SystemExit, match=r"Near: digits_vit"):
        run_command("new-config", ["digit_vit"])


@pytest.mark.parametrize(
    "kind",
    [
        *(configs.Config, configs.Model, configs.Data, configs.Optimization),
        *(configs.Masking, configs.Distillation, configs.Dino, Augmentation),
    ],
)
def test_every_field_is_explained(kind):
    for field, meaning in meanings(kind).items():
        assert re.fullmatch(r"[A-Z`\"].{8,}\.", meaning), field
