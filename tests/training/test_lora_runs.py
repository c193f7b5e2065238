"""Runs with LoRA: files, resumption, evaluation and export."""

import json

import numpy as np
import pytest
from PIL import Image

import keras_vit
from keras_vit import lora
from keras_vit.cli import command_line
from keras_vit.evaluation.accuracy import evaluate
from keras_vit.models.lora import is_factor
from keras_vit.training import config as configs
from keras_vit.training import runs
from keras_vit.training.own_images import base_config
from keras_vit.training.starting_point import config_of
from keras_vit.weights.pieces import HEAD_PATHS
from tests.cases import array, perturb, tiny_vit
from tests.commands import run_command
from tests.export.serving import exports_here
from tests.training.interruptions import (
    kill_at_first_checkpoint,
    train_to_next_checkpoint,
)
from tests.training.test_runs import assert_same_state, state

# Settings with random numbers (dropout) and state (EMA, optimizer).
SETTINGS = [
    "lora.rank=2",
    "lora.alpha=4",
    "epochs=3",
    "checkpoint_steps=6",
    "batch_size=192",
    "jit_compile=False",  # XLA takes seconds to compile each model under TensorFlow.
    "optimization.optimizer=adamw",
    "optimization.ema=0.9",
    "model.arguments.dropout_rate=0.1",
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "base.keras"
    model = tiny_vit(input_shape=(8, 8, 1), patch_size=4, num_layers=1)
    perturb(model).save(path)
    return str(path)


@pytest.fixture(scope="module")
def config(base):
    return configs.override(base_config(base), SETTINGS)


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    """Train a run without interruption."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    runs.train(config, directory)
    return directory


@pytest.mark.slow_elsewhere
def test_files_of_a_run(whole, base):
    model = keras_vit.load_checkpoint(whole / "best.keras")
    assert not {"lora", "frozen"} & set(model.get_config())
    other = keras_vit.load_checkpoint(base, head="new", classes=10)
    before = {path: array(weight) for path, weight in other.weights_by_path().items()}
    lora.load(other, whole / "best.lora.safetensors")
    factors = lora.merge(other)
    for path, weight in factors.weights_by_path().items():
        merged = array(model.weights_by_path()[path])
        np.testing.assert_array_equal(array(weight), merged)
        is_base = not (path.endswith("kernel") or path.startswith(HEAD_PATHS))
        if is_base or path.startswith("patch_encoder"):
            np.testing.assert_array_equal(merged, before[path])
        elif path.startswith("block"):
            assert not np.array_equal(merged, before[path])


@pytest.mark.slow_elsewhere
def test_the_state_has_the_bits_of_the_base(whole, base):
    with np.load(whole / "state.npz") as saved:
        rows = json.loads(str(saved["progress"]))["variables"]
    values = dict(zip((row[0] for row in rows), state(whole).values(), strict=True))
    before = keras_vit.load_checkpoint(base).weights_by_path()
    frozen = [path for path in before if not path.startswith(HEAD_PATHS)]
    for path in frozen:
        np.testing.assert_array_equal(values[path], array(before[path]))
    moments = {path for path in values if path.startswith("adam")}
    assert not any(path.endswith("_kernel") or "norm" in path for path in moments)
    assert any(is_factor(path) for path in values)


@pytest.mark.slow
def test_an_interrupted_run_ends_as_one_that_was_not(
    whole, config, tmp_path, monkeypatch
):
    train_to_next_checkpoint(config, tmp_path / "run", monkeypatch)
    runs.train(config, tmp_path / "run", resume=True)
    assert_same_state(tmp_path / "run", whole)
    for name in ("best", "last"):
        file = f"{name}.lora.safetensors"
        assert (tmp_path / "run" / file).read_bytes() == (whole / file).read_bytes()


@pytest.mark.slow
def test_a_killed_run_ends_as_one_that_was_not(whole, base, config, tmp_path):
    directory = tmp_path / "killed"
    kill_at_first_checkpoint("finetune", base, SETTINGS, directory)
    runs.train(config, directory, resume=True)
    assert_same_state(directory, whole)


@pytest.mark.slow_elsewhere
def test_the_run_is_evaluated(whole):
    results = json.loads((whole / "results.json").read_text())
    config = config_of(str(whole), command_line.UNSPECIFIED)
    assert config.lora == configs.LoRA(rank=2, alpha=4.0)
    evaluated = evaluate(config)
    assert results["val_accuracy"] == pytest.approx(evaluated["accuracy"])
    assert results["val_loss"] == pytest.approx(evaluated["loss"], rel=1e-4)


@pytest.mark.slow_elsewhere
@pytest.mark.usefixtures("tensorflow")
@pytest.mark.parametrize(
    ("file_format", "name"),
    [
        ("saved_model", "model"),
        pytest.param("onnx", "model.onnx", marks=pytest.mark.slow),
        pytest.param("litert", "model.tflite", marks=pytest.mark.slow),
    ],
)
def test_exports_of_a_run(file_format, name, whole, tmp_path, capsys):
    words = [str(whole), "--to", str(tmp_path / name), "--format", file_format]
    with exports_here():
        run_command("export", words)
    assert "every output within" in capsys.readouterr().out


@pytest.mark.any_backend
@pytest.mark.parametrize("command", ["predict", "evaluate", "export"])
def test_the_updates_are_no_checkpoint(command, whole, tmp_path):
    more = {"predict": [str(tmp_path)], "export": ["--to", str(tmp_path / "model")]}
    Image.new("L", (8, 8)).save(tmp_path / "a.png")
    words = [str(whole / "best.lora.safetensors"), *more.get(command, [])]
    with pytest.raises(SystemExit, match=r"not the model: load .*best\.keras is the"):
        run_command(command, words)


@pytest.mark.any_backend
def test_runs_that_cannot_use_lora(config, base, tmp_path):
    message = "lora.rank=2 requires objective='classification' and model.weights"
    with pytest.raises(ValueError, match=message):
        runs.train(configs.override(config, ["model.weights=None"]), tmp_path / "run")
    with pytest.raises(ValueError, match=message):
        runs.train(configs.override(config, ["objective=mae"]), tmp_path / "run")
    with pytest.raises(ValueError, match="must have a rank from 1 to"):
        runs.train(configs.override(config, ["lora.rank=0"]), tmp_path / "run")
    model = keras_vit.load_checkpoint(base)
    lora.enable(model, 2)
    model.save(tmp_path / "lora.keras")
    changed = [f"model.weights={tmp_path / 'lora.keras'}"]
    with pytest.raises(ValueError, match="uses LoRA already"):
        runs.train(configs.override(config, changed), tmp_path / "run")
    assert not (tmp_path / "run").exists()
