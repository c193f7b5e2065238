"""Training on a user's own folder with the option `--data`."""

import json
import re
import shutil
import types

import numpy as np
import pytest

import keras_vit
from keras_vit.cli import photos
from keras_vit.data.recognize import recognize
from keras_vit.training import config as configs
from keras_vit.training import runs, suggested
from keras_vit.training.compilation import freeze
from keras_vit.training.suggested import Facts
from tests.cases import array, tiny_vit
from tests.commands import run_command
from tests.training.photos import settings, write_checkpoint, write_photos


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_photos(folder / "flat")
    write_photos(folder / "splits" / "training", count=4)
    write_photos(folder / "splits" / "Valid", count=2)
    write_photos(folder / "splits" / "test", count=1)
    write_checkpoint(folder / "tiny.keras")
    return folder


def run(root, data, workdir, *more):
    arguments = [str(root / "tiny.keras"), "--data", str(data), *settings(), *more]
    run_command("finetune", [*arguments, "--workdir", str(workdir)])


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("data", ["flat", pytest.param("splits", marks=pytest.mark.slow)])
def test_one_command_trains_on_a_folder(data, root, tmp_path, capsys):
    run(root, root / data, tmp_path / "run", "--yes")
    printed = capsys.readouterr().out
    assert printed.index("Images") < printed.index("Training") < printed.index("best")
    assert "an estimate from" in printed
    assert (tmp_path / "run/report.html").stat().st_size > 10_000
    assert "12x10 pixels" in printed
    config = configs.load(str(tmp_path / "run" / "config.json"))
    splits = tmp_path / "run" / "splits.json"
    if data == "splits":
        assert "splits: training/ (train), Valid/ (validation), test/ (test)" in printed
        assert config.data.test == f"folder:{root / 'splits' / 'test'}"
        assert not splits.exists()
    else:
        assert config.data.validation == "split:0.2"
        written = json.loads(splits.read_text())
        assert {len(written["train"]), len(written["validation"])} == {12, 4}
        assert not set(written["train"]) & set(written["validation"])
        assert re.search(r"cat +6 +2\n", printed)


@pytest.mark.slow
def test_measuring_the_duration_changes_nothing(root, tmp_path):
    """A run after the summary has the same weights as one without it, with dropout."""
    arguments = ["model.arguments.dropout_rate=0.5"]
    arguments = [word for one in arguments for word in ("--set", one)]
    run(root, root / "flat", tmp_path / "a", "--yes", *arguments)
    config = configs.load(str(tmp_path / "a" / "config.json"))
    runs.train(config, str(tmp_path / "b"))
    one, other = (
        keras_vit.load_checkpoint(tmp_path / name / "last.keras") for name in "ab"
    )
    for mine, theirs in zip(one.weights, other.weights, strict=True):
        np.testing.assert_array_equal(array(mine), array(theirs))


@pytest.mark.slow
@pytest.mark.any_backend
def test_the_same_command_resumes_with_the_settings_of_the_run(
    root, tmp_path, capsys, monkeypatch
):
    data = shutil.copytree(root / "flat", tmp_path / "data")
    run(root, data, tmp_path / "run")
    monkeypatch.setattr(suggested, "HEAD_RATE", 0.5)
    capsys.readouterr()
    run(root, data, tmp_path / "run")
    assert "Resumed at step" in capsys.readouterr().out
    (data / "cat" / "0.jpg").unlink()
    with pytest.raises(SystemExit, match=r"has changed since the last .*cat/0\.jpg"):
        run(root, data, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.any_backend
def test_the_saved_config_trains_alike(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved = ["--save-config", "mine.py"]
    arguments = [str(root / "tiny.keras"), "--data", str(root / "flat"), *settings()]
    run_command("finetune", [*arguments, *saved])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]
    assert "keras-vit finetune mine.py" in (tmp_path / "mine.py").read_text()
    config = configs.load("mine.py")
    assert config.data.train == f"folder:{root / 'flat'}"
    assert config.augmentation.horizontal_flip
    assert config.optimization.learning_rate == suggested.HEAD_RATE


@pytest.mark.slow
@pytest.mark.any_backend
def test_a_config_keeps_its_settings(root, tmp_path, capsys):
    config = tmp_path / "mine.json"
    changes = ["model.arguments.input_shape=16,16,3", "model.arguments.num_layers=1"]
    made = configs.override(configs.load("digits_vit"), [*changes, "batch_size=5"])
    config.write_text(json.dumps(configs.to_dict(made)))
    photos_of = ["--data", str(root / "flat"), "--workdir", str(tmp_path / "run")]
    run_command("pretrain", [str(config), *photos_of, *settings()])
    printed = capsys.readouterr().out
    assert "steps of 5 images" in printed
    assert "Settings:" not in printed
    with pytest.raises(SystemExit, match="begins with a checkpoint"):
        run_command("finetune", [str(config), *photos_of])


@pytest.mark.slow
@pytest.mark.any_backend
def test_the_question(root, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("builtins.input", lambda question: "n")
    with pytest.raises(SystemExit, match="nothing was written"):
        run(root, root / "flat", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    photos.ask(yes=True)
    for answer in ("", "y", "Yes"):
        monkeypatch.setattr("builtins.input", lambda question, a=answer: a)
        photos.ask(yes=False)


@pytest.mark.any_backend
def test_folders_that_are_recognized(root, tmp_path):
    flat, splits = root / "flat", root / "splits"
    found = recognize(flat)
    assert (found.train, found.validation) == (f"folder:{flat}", "split:0.2")
    assert recognize(f"folder:{splits}").test == f"folder:{splits / 'test'}"
    unlabeled = shutil.copytree(splits, tmp_path / "unlabeled")
    shutil.rmtree(unlabeled / "Valid")
    shutil.rmtree(unlabeled / "test" / "cat")
    shutil.rmtree(unlabeled / "test" / "dog")
    found = recognize(unlabeled)
    assert (found.validation, found.test) == ("split:0.2", None)
    assert "test/ has no class folders and is left out" in found.about
    assert "in training/ are split off" in found.about


@pytest.mark.any_backend
def test_sets_of_tfds_that_are_recognized(monkeypatch):
    from keras_vit.data import tfds_sets

    def splits(*names):
        monkeypatch.setattr(
            tfds_sets, "split_names", lambda name, *_: (name[:6], list(names))
        )

    splits("train", "test")
    found = recognize("tfds:a")
    assert found.train == "tfds:a:train[:80%]"
    assert found.validation == "tfds:a:train[80%:]"
    assert found.test == "tfds:a:test"
    splits("train", "validation")
    assert recognize("tfds:a").validation == "tfds:a:validation"
    assert recognize("tfds:a:train[:10%]").train == "tfds:a:train[:10%]"
    splits("train")
    with pytest.raises(ValueError, match="is a slice"):
        recognize("tfds:a:train[:10%]")
    splits("all")
    with pytest.raises(ValueError, match=r"only all: .* as in tfds:a:all"):
        recognize("tfds:a")


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("images", "classes", "parameters", "accelerator", "expected"),
    [
        (40, 4, 86_000_000, True, (8, 40, ("backbone",), 0.01)),
        (160, 2, 86_000_000, False, (8, 15, ("backbone",), 0.01)),
        (160, 2, 86_000_000, True, (8, 25, (), 0.01)),
        (160, 2, 6_000_000, False, (8, 15, (), 0.1)),
        (50_000, 100, 300_000_000, True, (64, 3, (), 0.005)),
        (2_000, 10, 300_000_000, True, (32, 8, (), 0.005)),
        (2_000, 10, 22_000_000, False, (32, 5, (), 0.01)),
    ],
)
def test_suggested_settings(images, classes, parameters, accelerator, expected):
    facts = Facts(images, classes, parameters, 3, accelerator)
    config = suggested.suggested(configs.load("digits_vit"), facts)
    found = config.optimization
    assert (
        config.batch_size,
        config.epochs,
        found.frozen,
        found.backbone_multiplier,
    ) == expected
    assert bool(config.augmentation.randaugment) == (images == 50_000)
    assert config.lora.rank == (8 if images == 2_000 else None)
    # Gradual unfreezing trains the backbone in the end.
    config = suggested.suggested(configs.load("digits_vit"), facts, unfreezes=True)
    assert config.optimization.frozen == ()
    assert config.lora.rank is None
    assert config.optimization.backbone_multiplier < 1


@pytest.mark.any_backend
@pytest.mark.parametrize("machine", ["cpu", "accelerator"])
def test_the_suggested_epochs_are_those_of_enough_steps(machine):
    facts = Facts(1_500, 10, 22_000_000, 3, machine == "accelerator")
    config = suggested.suggested(configs.load("digits_vit"), facts)
    steps = suggested.STEPS[machine]
    per_epoch = facts.images / config.batch_size
    assert steps <= config.epochs * per_epoch < steps + per_epoch


@pytest.mark.any_backend
def test_a_frozen_backbone_leaves_the_head():
    model = tiny_vit()
    freeze(model, ("backbone",))
    trained = [p for p, w in model.weights_by_path().items() if w.trainable]
    assert trained == ["classifier/kernel", "classifier/bias"]


@pytest.mark.any_backend
def test_options_that_miss_something(root, capsys):
    arguments = [str(root / "tiny.keras"), "--data", str(root / "flat")]
    for more, message in (
        ([], "--workdir is required"),
        (["--save-config", "a.json"], "takes the name of a .py file"),
    ):
        with pytest.raises(SystemExit):
            run_command("finetune", [*arguments, *more])
        assert message in capsys.readouterr().err
    for option, value in (("--label-column", "age"), ("--save-config", "mine.py")):
        with pytest.raises(SystemExit):
            run_command("finetune", [arguments[0], "--workdir", "run", option, value])
        assert f"{option} goes with --data" in capsys.readouterr().err
