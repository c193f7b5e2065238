"""Folders and settings that users get wrong: one clear line, nothing written."""

import shutil

import pytest

from tests.commands import run_command
from tests.training.photos import settings, write_checkpoint, write_photos

pytestmark = pytest.mark.any_backend


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    write_checkpoint(folder / "tiny.keras")
    write_photos(folder / "good")
    write_photos(folder / "one", ("cat",))
    write_photos(folder / "bottom" / "train")
    write_photos(folder / "bottom" / "val", ("cat", "zebra"))
    write_photos(folder / "order" / "train")
    write_photos(folder / "order" / "val", ("cat", "dog", "horse"))
    write_photos(folder / "two" / "train")
    write_photos(folder / "two" / "val")
    write_photos(folder / "two" / "valid")
    write_photos(folder / "held" / "val")
    write_photos(folder / "held" / "test")
    (folder / "empty").mkdir()
    shutil.copytree(folder / "good", folder / "tiff")
    (folder / "tiff" / "scan").mkdir()
    (folder / "tiff" / "scan" / "a.svg").write_bytes(b"")
    return folder


CASES = {
    "one class": ("one", [], "one class, 'cat': there is nothing to learn"),
    "other names": ("bottom", [], "only data.validation=.* has 'zebra'"),
    "more classes": ("order", [], "has 3 classes"),
    "two validation sets": ("two", [], "val and valid could both be the validation set"),
    "no training set": ("held", [], "has no folder 'train', only val, test"),
    "no such folder": ("missing", [], "there is no such folder"),
    "no class folders": ("empty", [], "has no folders"),
    "a class without images": ("tiff", [], r"no images .*; it holds 1 \.svg file"),
    "unknown key": ("good", ["epoch=3"], "Did you mean epochs"),
    "wrong type": ("good", ["epochs=many"], "epochs must be int"),
    "large batch": ("good", ["batch_size=99"], "batch_size=99 is larger than the 12"),
    "unknown optimizer": ("good", ["optimization.optimizer=lbfgs"], "'adamw'"),
    "unknown layer": ("good", ["optimization.frozen=('blok',)"], "no weight has a path"),
    "unknown argument": ("good", ["model.arguments.num_layer=1"], "num_layer"),
    "unknown sampling": ("good", ["data.sampling=even"], "None or 'balanced'"),
    "smoothing": ("good", ["optimization.label_smoothing=1.5"], "at least 0 and below 1"),
    "split of a class": ("good", ["data.validation=split:2"], "above 0 and below 1"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_line_and_nothing_written(case, root, tmp_path):
    data, changes, message = CASES[case]
    arguments = [str(root / "tiny.keras"), "--data", str(root / data)]
    arguments += [*settings(*changes), "--workdir", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match=message) as stop:
        run_command("finetune", arguments)
    assert len(str(stop.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_only_the_training_set(root, tmp_path):
    arguments = [str(root / "tiny.keras"), *settings(f"data.train=folder:{root}/good")]
    with pytest.raises(SystemExit, match=r"set data\.validation.*split:0\.1"):
        run_command("finetune", [*arguments, "--workdir", str(tmp_path / "run")])
    config = tmp_path / "mine.py"
    config.write_text(
        "from keras_vit.training.config import Config, Data, Model\n"
        "CONFIG = Config(about='', command='', hardware='', expected='', "
        f"data=Data(train='folder:{root}/good'), "
        f"model=Model(weights='{root}/tiny.keras'))\n"
    )
    with pytest.raises(SystemExit, match=r"set data\.validation.*'split:0\.1'"):
        run_command("finetune", [str(config), "--workdir", str(tmp_path / "run")])
    assert list(tmp_path.iterdir()) == [config]


def test_splits_are_no_classes_in_a_config(root, tmp_path):
    data = [f"data.train=folder:{root}/bottom", "data.validation=split:0.1"]
    arguments = [str(root / "tiny.keras"), *settings(*data)]
    with pytest.raises(SystemExit, match=r"holds the parts of a set .*--data .*bottom"):
        run_command("finetune", [*arguments, "--workdir", str(tmp_path / "run")])


@pytest.mark.slow
def test_a_failed_start_leaves_the_directory_free(root, tmp_path, monkeypatch):
    from keras_vit.training import runs

    arguments = [str(root / "tiny.keras"), "--data", str(root / "good"), *settings()]
    arguments += ["--workdir", str(tmp_path / "run")]

    def stopped(*_):
        raise ValueError("stopped before the first step")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "_train_phases", stopped)
        with pytest.raises(SystemExit, match="stopped"):
            run_command("finetune", arguments)
    assert (tmp_path / "run" / "config.json").exists()
    assert (tmp_path / "run" / "splits.json").exists()
    run_command("finetune", [*arguments, "--set", "batch_size=4"])
    assert (tmp_path / "run" / "results.json").exists()
