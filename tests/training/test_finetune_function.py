"""The function `keras_vit.training.finetune`, with folders, datasets and arrays."""

import json
import zlib

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.data import split_off
from keras_vit.data.host import tensorflow
from keras_vit.data.in_memory import dataset_source
from keras_vit.training import config as configs
from keras_vit.training import own_images
from tests.training.photos import BRIGHTNESS, write_checkpoint, write_photos

SETTINGS = {"epochs": 1, "jit_compile": False, "steps_per_execution": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("function")
    write_photos(folder / "flat")
    write_checkpoint(folder / "tiny.keras")
    return folder


def arrays(count=8):
    generator = np.random.default_rng(0)
    values = np.repeat([BRIGHTNESS["cat"], BRIGHTNESS["dog"]], count)
    noise = generator.integers(-9, 9, (2 * count, 16, 16, 3))
    images = (values[:, None, None, None] + noise).clip(0, 255).astype("uint8")
    return images, np.repeat([0, 1], count)


class Pairs(keras.utils.PyDataset):
    def __init__(self, images, labels):
        super().__init__()
        self.pairs = images, labels

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return tuple(part[4 * index : 4 * index + 4] for part in self.pairs)


@pytest.mark.slow
def test_a_folder(root, tmp_path, capsys):
    run = tmp_path / "run"
    results = keras_vit.training.finetune(
        root / "tiny.keras", root / "flat", run, settings=SETTINGS
    )
    assert results["weights"] == "best.keras"
    assert results["val_accuracy"] >= 0
    assert "Images" in capsys.readouterr().out
    again = keras_vit.training.finetune(
        root / "tiny.keras", root / "flat", run, settings=SETTINGS, resume=True
    )
    assert again == results


@pytest.mark.any_backend
@pytest.mark.parametrize("kind", ["arrays", "tf.data", "PyDataset"])
def test_datasets_are_one_source(kind, root, tmp_path):
    images, labels = arrays()
    data = {
        "arrays": (images, labels),
        "tf.data": tensorflow()
        .data.Dataset.from_tensor_slices((images, labels))
        .shuffle(16)
        .batch(5),
        "PyDataset": Pairs(images, labels),
    }[kind]
    one, other = (dataset_source("dataset:train", data) for _ in range(2))
    np.testing.assert_array_equal(one.table["image"], other.table["image"])
    assert one.listing() == other.listing()
    assert one.class_counts == (8, 8)
    train, validation = split_off(one, "split:0.25")
    assert (train.num_examples, validation.num_examples) == (12, 4)


@pytest.mark.any_backend
def test_images_with_equal_checksums(monkeypatch):
    monkeypatch.setattr(zlib, "crc32", lambda data, value=0: 1)
    images, labels = arrays()
    one = dataset_source("dataset:train", (images, labels))
    other = dataset_source("dataset:train", (images[::-1], labels[::-1]))
    np.testing.assert_array_equal(one.table["image"], other.table["image"])
    assert one.listing() == other.listing()


@pytest.mark.slow
def test_arrays_train(root, tmp_path):
    run = tmp_path / "run"
    call = {"validation": arrays(2), "test": arrays(1), "class_names": ["cat", "dog"]}
    results = keras_vit.training.finetune(
        str(root / "tiny.keras"), arrays(), run, settings=SETTINGS, **call
    )
    assert "test_accuracy" in results
    assert json.loads((run / "classes.json").read_text()) == ["cat", "dog"]
    assert len((run / "predictions.csv").read_text().splitlines()) == 1 + 2
    assert (run / "report.html").stat().st_size > 10_000


@pytest.mark.any_backend
def test_labels_of_arrays():
    images, labels = arrays(2)
    hot = np.eye(2)[labels]
    assert dataset_source("a", (images, hot)).labels == "single"
    assert dataset_source("a", (images, np.ones_like(hot))).labels == "multi"
    assert dataset_source("a", (images, labels / 2)).labels == "regression"
    assert dataset_source("a", (images, labels), ["x", "y", "z"]).num_classes == 3


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x / 255, y), "pixel values 0 to 255; received 0"),
        (lambda x, y: (x * np.float32("nan"), y), "pixel values 0 to 255; received nan"),
        (lambda x, y: (x[..., :2], y), "1 or 3 channels"),
        (lambda x, y: (x[..., 0], y), r"images \(n, h, w, c\)"),
        (lambda x, y: (x, y - 1), "the label -1; labels start at 0"),
        (lambda x, y: (x, y[:2]), "and n labels"),
        (lambda x, y: (x, y * np.nan), "not finite"),
        (lambda x, y: [], "has no images"),
    ],
)
def test_arrays_with_errors(change, message):
    with pytest.raises(ValueError, match=message):
        dataset_source("data", change(*arrays(2)))


@pytest.mark.any_backend
def test_sets_of_a_folder_come_from_the_folder(root, tmp_path):
    with pytest.raises(ValueError, match="validation can be passed with a dataset"):
        keras_vit.training.finetune(
            root / "tiny.keras", root / "flat", tmp_path / "run", validation=arrays()
        )


def prepare(sets, *settings):
    """Prepare a run with the settings of a config, which needs no model."""
    config = configs.load("digits_vit")
    return own_images.prepare_datasets(config, sets, None, settings, suggest=False)


@pytest.mark.any_backend
def test_settings_of_the_data_apply_to_arrays():
    prepared = prepare({"train": arrays(20)}, "data.validation=split:0.1")
    assert prepared.sources["validation"].num_examples == 4
    assert prepared.config.data.validation == "split:0.1"
    assert "10% of each class are split off" in prepared.about
    sets = {"train": arrays(20), "validation": arrays(3)}
    prepared = prepare(sets, "data.fraction=0.1", "data.sampling=balanced")
    counts = {part: one.num_examples for part, one in prepared.sources.items()}
    assert counts == {"train": 4, "validation": 6}
    assert prepared.config.data.sampling == "balanced"
    assert prepare(sets, "data.labels=single").config.data.labels == "single"


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.train=digits", "data.train has no meaning .* pass the images as data"),
        ("data.test=digits:test", "data.test has no meaning .* pass the images as test="),
        ("data.label_column=age", "data.label_column has no meaning .* leave it out"),
        ("data.validation=digits", "'digits' has no meaning .* or set .* 'split:0.1'"),
        ("data.validation=split:2", "'split:2' is not of the form"),
        ("data.labels=regression", "'regression' does not fit .* 'single': pass floats"),
        ("data.labels=numbers", "Unknown data.labels 'numbers'"),
    ],
)
def test_settings_that_do_not_apply_to_arrays(setting, message):
    with pytest.raises(ValueError, match=message):
        prepare({"train": arrays(3)}, setting)


@pytest.mark.any_backend
def test_arrays_have_one_validation_set():
    sets = {"train": arrays(3), "validation": arrays(3)}
    with pytest.raises(ValueError, match=r"'split:0\.5' and validation= are both set"):
        prepare(sets, "data.validation=split:0.5")


@pytest.mark.any_backend
def test_other_arrays_have_the_classes_of_the_training_set():
    images, labels = arrays(6)
    images, labels = np.tile(images, (2, 1, 1, 1)), np.tile(labels, 2) + [0, 2] * 12
    cats = images[labels == 0][:3], np.zeros(3, "int32")
    sources = prepare({"train": (images, labels), "test": cats}).sources
    assert {source.num_classes for source in sources.values()} == {4}
    for part in ("validation", "test"):
        with pytest.raises(ValueError, match=f"{part} has the label 3, .* 2 classes, wi"):
            prepare({"train": arrays(), part: (images, labels)})
    with pytest.raises(ValueError, match="train has the label 3, but there are 2 class"):
        dataset_source("train", (images, labels), ["cat", "dog"])
