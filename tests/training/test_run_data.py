"""Data sets that do not match each other or the model."""

import dataclasses
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import keras_vit
from keras_vit.cli import process
from keras_vit.data import files, fingerprint
from keras_vit.data.sources import open_source
from keras_vit.training import config as configs
from keras_vit.training import runs
from keras_vit.training.image_sets import open_parts
from tests.cases import mostly_slow
from tests.commands import run_command

pytestmark = pytest.mark.any_backend
COLORS = {"cat": 20, "dog": 90, "horse": 160, "zebra": 240}
TINY = [
    "epochs=1",
    "batch_size=6",
    "jit_compile=False",  # XLA takes seconds to compile each model under TensorFlow.
    "data.test=None",
    "augmentation.pad_and_crop=0",
    "model.arguments.input_shape=(8, 8, 1)",
    "model.arguments.patch_size=4",
    "model.arguments.hidden_dim=8",
    "model.arguments.mlp_dim=8",
    "model.arguments.num_heads=1",
    "model.arguments.num_layers=1",
]


def write(folder, names=("cat", "dog", "horse"), count=6):
    generator = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = COLORS[name] + generator.integers(-9, 9, (8, 8))
            Image.fromarray(pixels.astype("uint8")).save(folder / name / f"{i}.png")
    return f"folder:{folder}"


def config_of(train, validation=None, *settings):
    data = [f"data.train={train}", f"data.validation={validation or train}"]
    return configs.override(configs.load("digits_vit"), [*TINY, *data, *settings])


def options(*settings):
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    return {
        "train": write(root / "animals"),
        "other": write(root / "other", ("dog", "horse", "zebra"), 2),
        "fewer": write(root / "fewer", ("dog", "horse"), 2),
        "one": write(root / "one", ("dog",), 2),
    }


@pytest.fixture(scope="module")
def run(sets, tmp_path_factory):
    """Train a model with one channel on gray images."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    runs.train(config_of(sets["train"], "split:0.34"), directory)
    return directory


@pytest.mark.slow
def test_a_run_gives_its_class_names_to_its_models(run):
    for name in ("best", "last"):
        model = keras_vit.load_checkpoint(run / f"{name}.keras")
        assert model.get_config()["class_names"] == ["cat", "dog", "horse"]


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("other", ["other", "fewer"])
def test_the_sets_of_a_run_have_the_same_classes(part, other, sets, tmp_path):
    config = config_of(sets["train"], None, f"data.{part}={sets[other]}")
    with pytest.raises(ValueError, match=rf"data\.{part}=.*'cat'.*Set data\.{part} to"):
        runs.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_class_is_nothing_to_learn(sets, tmp_path):
    with pytest.raises(ValueError, match="one class, 'dog': there is nothing to learn"):
        runs.train(config_of(sets["one"]), tmp_path / "run")


@pytest.mark.slow
def test_evaluation_compares_class_names(run, sets, tmp_path):
    def evaluated(what, test, *settings):
        settings = [f"data.test={sets[test]}", *settings]
        run_command("evaluate", [str(what), *options(*settings)])

    copy = shutil.copy(run / "best.keras", tmp_path / "model.keras")
    unnamed = keras_vit.load_checkpoint(copy, class_names=None)
    old = shutil.copytree(run, tmp_path / "old")  # Older models have no class names.
    unnamed.save(old / "best.keras")
    for what in (run, copy, old):
        with pytest.raises(SystemExit, match=r"has 'zebra'; only .* has 'cat'"):
            evaluated(what, "other")
        evaluated(what, "train")
    evaluated(copy, "other", "model.arguments.class_names=None")
    unnamed.save(tmp_path / "unnamed.keras")
    evaluated(tmp_path / "unnamed.keras", "other")


@pytest.mark.slow
def test_a_head_that_is_kept_has_the_classes_of_the_run(run, sets):
    weights = [f"model.weights={run / 'best.keras'}", "model.arguments.head=keep"]
    kept = configs.override(
        configs.load("digits_vit_finetune"),
        [*weights, f"data.train={sets['other']}", f"data.validation={sets['other']}"],
    )
    kept = configs.override(kept, ["data.test=None", "batch_size=2"])
    with pytest.raises(ValueError, match=r"'zebra'.*Remove model\.arguments\.head"):
        runs.make_plan(kept).objective.build()


@pytest.mark.slow
@pytest.mark.parametrize("test", ["other", "fewer"])
def test_probes_compare_the_classes_of_their_sets(test, run, sets):
    names = [f"data.{part}={sets['train']}" for part in ("train", "validation")]
    with pytest.raises(SystemExit, match=r"error: The classes of data\.test=.*'cat'"):
        run_command("probe", [str(run), *options(*names, f"data.test={sets[test]}")])


@pytest.mark.slow
@pytest.mark.parametrize("command", mostly_slow(["evaluate", "probe"], "evaluate"))
def test_an_unreadable_image_ends_a_command_in_one_line(command, run, sets, tmp_path):
    bad = write(tmp_path / "bad", count=1)
    (tmp_path / "bad" / "cat" / "1.png").write_bytes(b"no image")
    names = [f"data.{part}={sets['train']}" for part in ("train", "validation")]
    with pytest.raises(SystemExit, match=r"^error: folder:.*: cat/1\.png cannot be read"):
        run_command(command, [str(run), *options(*names, f"data.test={bad}")])


def test_a_set_that_is_left_over_from_the_config(sets, tmp_path):
    workdir = ["--workdir", str(tmp_path / "run")]
    train = f"data.train={sets['train']}"
    with pytest.raises(SystemExit, match=r"'digits:validation': .*split:0\.1 to"):
        run_command("pretrain", ["digits_vit", *workdir, *options(train)])
    settings = [train, "data.validation=split:0.1"]  # The remedy that the error names.
    with pytest.raises(SystemExit, match=r"'digits:test': set data\.test=\.\.\. too or"):
        run_command("pretrain", ["digits_vit", *workdir, *options(*settings)])
    assert not (tmp_path / "run").exists()


def test_a_validation_set_split_off(run, sets, capsys):
    run_command("evaluate", [str(run)])
    printed = capsys.readouterr().out
    assert "best.keras on split:0.34 of folder:" in printed
    assert "images: 6 (0 unreadable)" in printed
    parts = runs.make_plan(config_of(sets["train"], "split:0.34")).sources
    again = runs.make_plan(config_of(sets["train"], "split:0.34")).sources
    found = fingerprint.fingerprints(again)
    fingerprint.check_unchanged(fingerprint.fingerprints(parts), found, again)
    other = runs.make_plan(config_of(sets["train"], "split:0.34:1")).sources
    with pytest.raises(ValueError, match=r"data\.train=.* has changed since"):
        fingerprint.check_unchanged(found, fingerprint.fingerprints(other), other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation": "split"}, "'split' is not of the form 'split:SHARE'"),
        (
            {"validation": "split:0.1", "train": ""},
            "which is not set: add",
        ),
        ({"test": "split:0.1"}, "only data.validation can be one"),
        ({"train": "split:0.1"}, "only data.validation can be one"),
    ],
)
def test_splits_that_are_misplaced(settings, message):
    with pytest.raises(ValueError, match=message):
        open_parts(configs.Data(**settings))


def test_predict_takes_the_files_of_a_folder_source(run, tmp_path, capsys):
    write(tmp_path / "far", ("dog",), 1)
    folder = tmp_path / "photographs"
    folder.mkdir()
    (folder / "linked").symlink_to(tmp_path / "far" / "dog")
    (folder / "._0.png").write_bytes(b"mac")
    (folder / "notes.txt").write_text("no image")
    run_command("predict", [str(run), str(folder)])
    printed = capsys.readouterr()
    files = [line for line in printed.out.splitlines() if line.startswith("/")]
    assert files == [str(folder / "linked" / "0.png")]
    assert "%  dog" in printed.out
    assert "left out 1 .txt file" in printed.err
    (folder / "linked").unlink()
    with pytest.raises(SystemExit, match="No image at"):
        run_command("predict", [str(run), str(folder)])
    (folder / "broken.png").write_bytes(b"not an image")
    with pytest.raises(SystemExit, match="1 of 1 images could not be read"):
        run_command("predict", [str(run), str(folder)])
    (line,) = [x for x in capsys.readouterr().out.splitlines() if "cannot be read" in x]
    assert "Unknown image file format" in line
    assert "{{" not in line


@pytest.mark.slow
def test_pngs_of_16_bits_that_use_12(run, tmp_path, capsys):
    folder = tmp_path / "set"
    for name in COLORS.keys() - {"zebra"}:
        (folder / name).mkdir(parents=True)
        pixels = np.linspace(0, 4095, 64).reshape(8, 8).astype("uint16")
        Image.fromarray(pixels).save(folder / name / "0.png")
    (folder / "cat" / "00.png").write_bytes((folder / "cat" / "0.png").read_bytes()[:50])
    source = f"data.test=folder:{folder}"
    run_command("evaluate", [str(run), *options(source, "data.unreadable=skip")])
    assert capsys.readouterr().out.count("no value above 4,095 of 65,535") == 1
    run_command("predict", [str(run), str(folder / "dog")])
    assert "dog/0.png has 16 bits" in capsys.readouterr().err
    bright = Image.fromarray(pixels * 16)
    bright.save(folder / "dog" / "0.png")
    run_command("predict", [str(run), str(folder / "dog")])
    assert not capsys.readouterr().err.count("warning: ")


def add(folder):
    shutil.copy(folder / "cat" / "0.png", folder / "cat" / "new.png")


def remove(folder):
    (folder / "dog" / "3.png").unlink()


def rename(folder):
    (folder / "dog" / "3.png").rename(folder / "dog" / "33.png")


def relabel(folder):
    (folder / "dog" / "3.png").rename(folder / "cat" / "dog3.png")


def swap(folder):
    first, second = (folder / name / "3.png" for name in ("dog", "cat"))
    contents = first.read_bytes(), second.read_bytes()
    second.write_bytes(contents[0])
    first.write_bytes(contents[1])


def rename_class(folder):
    (folder / "dog").rename(folder / "elk")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (add, r"18 examples became 19; 1 added \(cat/new\.png\)"),
        (remove, r"18 examples became 17; 1 removed \(dog/3\.png\)"),
        (rename, r"1 added \(dog/33\.png\); 1 removed \(dog/3\.png\)"),
        (relabel, r"1 added \(cat/dog3\.png\); 1 removed \(dog/3\.png\)"),
        (swap, r"2 with other contents \(cat/3\.png, dog/3\.png\)"),
        (rename_class, r"1 classes added \(elk\); 1 classes removed \(dog\)"),
    ],
)
def test_what_changed_in_a_set(change, message, tmp_path, monkeypatch):
    name = write(tmp_path / "set")
    sources = {"train": open_source(name)}
    before = fingerprint.fingerprints(sources)
    fingerprint.check_unchanged(before, fingerprint.fingerprints(sources), sources)
    fingerprint.check_unchanged({}, before, sources)  # Older runs have no fingerprints.
    monkeypatch.setattr(fingerprint, "MOST_ROWS", 5)
    by_class = fingerprint.fingerprints(sources)
    monkeypatch.undo()
    change(tmp_path / "set")
    sources = {"train": open_source(name)}
    after = fingerprint.fingerprints(sources)
    with pytest.raises(ValueError, match=rf"data\.train=.*{message}.*restore the set"):
        fingerprint.check_unchanged(before, after, sources)
    monkeypatch.setattr(fingerprint, "MOST_ROWS", 5)
    after = fingerprint.fingerprints(sources)
    with pytest.raises(ValueError, match=r"data\.train=.*class"):
        fingerprint.check_unchanged(by_class, after, sources)


@pytest.fixture
def large_set(tmp_path, monkeypatch):
    """Return the sources of a set that is too large for whole checksums, and a file."""
    monkeypatch.setattr(files, "_CHECKSUM_BYTES", 100)
    sources = {"train": open_source(write(tmp_path / "set"))}
    file = tmp_path / "set" / "cat" / "0.png"
    file.write_bytes(bytes(50_000))
    return sources, file


@pytest.mark.parametrize("position", [100, 25_000, 49_900])
def test_large_files_are_compared_by_samples(position, large_set):
    sources, file = large_set
    before = fingerprint.fingerprints(sources)
    changed = bytearray(50_000)
    changed[position] = 1
    file.write_bytes(changed)
    after = fingerprint.fingerprints(sources)
    with pytest.raises(ValueError, match=r"1 with other contents \(cat/0\.png\)"):
        fingerprint.check_unchanged(before, after, sources)
    file.unlink()
    assert sources["train"].listing()[0] == ("cat/0.png", 0, "missing")


def test_only_some_files_of_many_are_sampled(large_set, monkeypatch):
    sources, _ = large_set
    monkeypatch.setattr(files, "_SAMPLED_FILES", 2)  # 18 files: sizes divisible by 8.
    for _, _, text in sources["train"].listing():
        assert ("~" in text) == (int(text.split()[0]) % 8 == 0)


def test_the_order_of_the_examples(tmp_path):
    """Check that a resumed run would notice batches of other examples."""
    source = open_source(write(tmp_path / "set"))
    before = fingerprint.fingerprints({"train": source})
    listing = source.listing()
    turned = dataclasses.replace(source, listing=lambda: listing[::-1])
    after = fingerprint.fingerprints({"train": turned})
    with pytest.raises(ValueError, match="the order of its examples differs"):
        fingerprint.check_unchanged(before, after, {"train": turned})


@pytest.mark.parametrize("rows", [5, 100])
def test_states_of_earlier_versions_have_the_sizes_of_large_files(
    rows, large_set, monkeypatch
):
    monkeypatch.setattr(fingerprint, "MOST_ROWS", rows)
    sources, file = large_set
    listed = [(n, label, t.split()[0]) for n, label, t in sources["train"].listing()]
    if rows < len(listed):
        listed = fingerprint._by_class(listed, ("cat", "dog", "horse"))
    earlier = {"classes": ["cat", "dog", "horse"], "examples": 18, "rows": listed}
    before = {"train": fingerprint._packed(earlier)}
    fingerprint.check_unchanged(before, fingerprint.fingerprints(sources), sources)
    file.write_bytes(bytes(50_001))
    after = fingerprint.fingerprints(sources)
    with pytest.raises(ValueError, match="1 with other contents"):
        fingerprint.check_unchanged(before, after, sources)


@pytest.mark.slow
@pytest.mark.parametrize(
    "part", ["train", pytest.param("validation", marks=pytest.mark.slow)]
)
def test_a_run_does_not_resume_on_other_data(part, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runs, "MOST_CLASSES_COUNTED", 2)
    names = {p: write(tmp_path / p) for p in ("train", "validation")}
    config = config_of(names["train"], names["validation"])
    directory = tmp_path / "run"
    (tmp_path / "train" / "dog" / "0.png").unlink()
    runs.train(config, directory)
    printed = capsys.readouterr().out
    assert "17 images of folder:" in printed
    assert "of each class: cat 6, horse 6, ...\n" in printed  # The training set.
    assert "of each class: cat 6, dog 6, ...\n" in printed
    state = (directory / "state.npz").read_bytes()
    runs.train(config, directory)  # The run is complete and its data unchanged.
    remove(tmp_path / part)
    with pytest.raises(ValueError, match=rf"data\.{part}=.*1 removed \(dog/3\.png\)"):
        runs.train(config, directory)
    assert (directory / "state.npz").read_bytes() == state


@pytest.mark.slow
def test_a_class_that_is_added_to_the_data_of_a_run(tmp_path):
    name = write(tmp_path / "set")
    runs.train(config_of(name), tmp_path / "run")
    write(tmp_path / "set", ("zebra",))
    with pytest.raises(ValueError, match=r"data\.train=.*1 classes added \(zebra\)"):
        runs.train(config_of(name), tmp_path / "run")


def test_fingerprints_of_the_digits():
    sources = {part: open_source(f"digits:{part}") for part in ("train", "test")}
    both = fingerprint.fingerprints(sources)
    assert both["train"] != both["test"]
    with pytest.raises(ValueError, match=r"1,257 examples became 360; 360 added"):
        fingerprint.check_unchanged(
            {"test": both["train"]}, {"test": both["test"]}, sources
        )


def test_a_command_that_fails_ends_without_the_destructors_of_tensorflow():
    # The file is run alone, because importing the package takes seconds.
    code = (
        "import atexit, runpy, sys\n"
        "atexit.register(print, 'destructors')\n"
        "run = runpy.run_path(sys.argv[1])['run_as_process']\n"
        "run(lambda: sys.exit('error: this image'))\n"
    )
    command = [sys.executable, "-c", code, process.__file__]
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: this image"
    assert "destructors" not in done.stdout
