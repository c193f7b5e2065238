"""Directories of the Hugging Face library `datasets`, which is no dependency."""

import dataclasses
import sys

import numpy as np
import pytest
from PIL import Image

from keras_vit.data import open_source, split_off
from keras_vit.data.recognize import recognize
from keras_vit.data.summary import summary
from keras_vit.data.tables import Columns
from keras_vit.training import config as configs
from keras_vit.training.image_sets import open_parts

pytestmark = pytest.mark.any_backend


@pytest.fixture
def saved(tmp_path):
    datasets = pytest.importorskip("datasets", reason="pip install datasets to test them")
    images = [Image.new("RGB", (6, 4), (20 * i, 0, 0)) for i in range(8)]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    data = datasets.Dataset.from_dict(
        {"image": images, "label": [0, 1] * 4}, features=features
    )
    return datasets, data, tmp_path / "saved"


def test_directories_of_save_to_disk(saved):
    datasets, data, path = saved
    parts = datasets.DatasetDict({"train": data, "test": data.select(range(2))})
    parts.save_to_disk(path)
    found = recognize(path)
    assert found.train == f"datasets:{path}:train"
    assert (found.validation, found.test) == ("split:0.2", f"datasets:{path}:test")
    source = open_source(found.train)
    assert source.class_names == ("cat", "dog")
    assert source.class_counts == (4, 4)
    train, validation = split_off(source, "split:0.25")
    assert "6x4 pixels" in summary({"train": train, "validation": validation})
    example = next(iter(source.examples().skip(3)))
    assert int(example["label"]) == 1
    assert example["image"].numpy().startswith(b"\x89PNG")
    assert open_source(found.train).listing() == source.listing()


def test_the_column_of_labels_is_chosen(saved):
    datasets, data, path = saved
    parity = datasets.ClassLabel(names=["even", "odd"])
    data = data.rename_column("label", "fine").add_column("coarse", [0, 0, 1, 1] * 2)
    data = data.cast_column("coarse", parity).add_column("box", [[0.5, 1.0]] * 8)
    data.save_to_disk(path)
    with pytest.raises(ValueError, match=r"columns of labels, fine, coarse: choose one"):
        recognize(path)
    assert recognize(path, columns=Columns(labels=("coarse",))).labels == "single"
    source = open_source(f"datasets:{path}", label_column="coarse")
    assert source.class_names == ("even", "odd")
    with pytest.raises(ValueError, match=r"no column of labels 'age'; its columns are"):
        open_source(f"datasets:{path}", label_column="age")
    data = configs.Data(
        train=f"datasets:{path}", validation="split:0.5", label_column="coarse"
    )
    assert open_parts(data)["train"].num_examples == 4
    with pytest.raises(ValueError, match=r"kind 'single', and data\.labels is 'multi'"):
        open_parts(dataclasses.replace(data, labels="multi"))


def test_hidden_labels_are_refused(saved):
    datasets, data, path = saved
    hidden = data.remove_columns("label").add_column("label", [-1] * 8)
    hidden = hidden.cast_column("label", datasets.ClassLabel(names=["cat", "dog"]))
    datasets.DatasetDict({"train": data, "test": hidden}).save_to_disk(path)
    with pytest.raises(ValueError, match=r"8 of 8 images have no label.*data\.test=None"):
        open_source(f"datasets:{path}:test")


def test_missing_numbers_are_refused(saved):
    _, data, path = saved
    values = [0.5, None, float("nan"), 1.5] * 2
    data = data.remove_columns("label").add_column("label", values)
    data.save_to_disk(path)
    with pytest.raises(ValueError, match=r"4 of 8 images have no label"):
        open_source(f"datasets:{path}")


def test_a_class_of_minus_one(saved):
    _, data, path = saved
    data.remove_columns("label").add_column("label", [-1, 1] * 4).save_to_disk(path)
    assert open_source(f"datasets:{path}").class_names == ("-1", "1")


def test_parquet_files_of_images(saved):
    _, data, path = saved
    (path / "data").mkdir(parents=True)
    data.to_parquet(path / "data" / "train-00000-of-00001.parquet")
    found = recognize(path)
    source = open_source(found.train)
    np.testing.assert_array_equal(source.table["label"], [0, 1] * 4)


def test_the_library_is_named_if_it_is_missing(tmp_path, monkeypatch):
    (tmp_path / "dataset_dict.json").write_text("{}")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match="pip install datasets"):
        recognize(tmp_path)
