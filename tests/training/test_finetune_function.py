"""The function `keras_vit.training.finetune`, with folders, datasets and arrays."""

import json

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.data import split_off
from keras_vit.data.host import tensorflow
from keras_vit.data.in_memory import dataset_source
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
