"""Batches that several processes share."""

import contextlib
import types

import keras
import numpy as np
import pytest

from keras_vit.data import Augmentation, evaluation_batches, open_source, training_batches
from keras_vit.data.in_memory import dataset_source
from keras_vit.layers import Preprocessor

pytestmark = pytest.mark.any_backend


@contextlib.contextmanager
def process(index, count, data=None, devices=None, own_parts=True):
    """Stand in for one of several processes: all that the data pipeline asks for."""
    devices = devices or count
    data = data or devices
    parts = min(count, data)
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(
        types.SimpleNamespace(
            num_processes=count,
            auto_shard_dataset=not own_parts,
            num_model_replicas=data,
            data_shard_id=index * parts // count,
            batch_dim_name="data",
            get_tensor_layout=lambda path: None,
            device_mesh=types.SimpleNamespace(
                axis_names=("data", "model"), shape=(data, devices // data)
            ),
        )
    )
    try:
        yield
    finally:
        keras.distribution.set_distribution(before)


def batches(augmentation, first_step=0):
    """Return three batches of 8, which span two epochs of 20 images."""
    images = np.arange(20 * 4 * 4).reshape(20, 4, 4, 1).astype("uint8")
    data = training_batches(
        dataset_source("numbers", (images, np.arange(20) % 3)),
        Preprocessor(),
        augmentation,
        8,
        seed=1,
        first_step=first_step,
    )
    return [tuple(part.numpy() for part in batch) for batch in data.take(3)]


@pytest.mark.parametrize(("count", "first_step"), [(2, 0), (4, 5)])
@pytest.mark.parametrize(
    "augmentation",
    [Augmentation(pad_and_crop=1), Augmentation(mixup=0.5, cutmix=1.0)],
    ids=["shift", "mix"],
)
def test_processes_train_on_parts_of_the_same_batches(augmentation, first_step, count):
    expected = batches(augmentation, first_step)
    parts = []
    for index in range(count):
        with process(index, count):
            parts.append(batches(augmentation, first_step))
    for step, whole in enumerate(expected):
        for i, values in enumerate(whole):
            found = np.concatenate([part[step][i] for part in parts])
            np.testing.assert_array_equal(found, values)


def test_processes_have_as_many_batches():
    """The last part of a batch may be a whole one of some processes."""
    images = np.zeros((13, 4, 4, 1), "uint8")
    for index in range(2):
        with process(index, 2):
            data = training_batches(
                dataset_source("numbers", (images, np.arange(13) % 3)),
                Preprocessor(),
                Augmentation(),
                8,
                seed=1,
                epochs=1,
            )
            assert len(list(data)) == len(data) == 1


def test_processes_of_the_same_part_of_data_read_the_same_images():
    augmentation = Augmentation(mixup=0.5)
    expected = batches(augmentation)
    for index in range(4):
        with process(index, 4, data=2, devices=8):
            found = batches(augmentation)
        rows = slice(0, 4) if index < 2 else slice(4, 8)
        for part, whole in zip(found, expected, strict=True):
            np.testing.assert_array_equal(part[0], whole[0][rows])


@pytest.mark.parametrize(
    ("number", "count", "devices"),
    [(20, 2, 2), (21, 2, 4), (19, 4, 4), (5, 4, 8), (3, 4, 4), (1, 2, 2), (17, 4, 8)],
)
def test_processes_evaluate_every_image_once(number, count, devices):
    images = np.arange(number)[:, None, None, None] * np.ones((1, 4, 4, 1))
    source = dataset_source("numbers", (images.astype("uint8"), np.arange(number) % 3))
    seen, sizes, total, rows = [], [], 0.0, 0
    for index in range(count):
        with process(index, count, devices=devices):
            data = list(
                evaluation_batches(source, Preprocessor(mean=0, std=1), 8, ids=True)
            )
        sizes.append([len(images) for images, *_ in data])
        for batch in data:
            pixels, labels, weights, _ = (part.numpy() for part in batch)
            real = weights > 0
            seen += pixels[real][:, 0, 0, 0].astype(int).tolist()
            np.testing.assert_array_equal(labels[real], pixels[real][:, 0, 0, 0] % 3)
            total, rows = total + weights.sum(), rows + len(weights)
    assert sorted(seen) == list(range(number))
    # JAX needs batches of the same shape from all processes, for all of their devices.
    assert all(row == sizes[0] for row in sizes)
    assert all(size % (devices // count) == 0 for size in sizes[0])
    # Keras averages over all rows.
    assert total / rows == pytest.approx(1.0)


def test_keras_may_take_the_parts_out_of_whole_batches():
    augmentation = Augmentation(pad_and_crop=1)
    expected = batches(augmentation)
    with process(1, 2, own_parts=False):
        found = batches(augmentation)
    for part, whole in zip(found, expected, strict=True):
        np.testing.assert_array_equal(part[0], whole[0])


def test_batches_that_processes_cannot_share_are_an_error():
    what = "3 processes cannot share a batch of 8"
    with process(0, 3), pytest.raises(ValueError, match=what):
        batches(Augmentation())


def test_unreadable_images_cannot_be_skipped_by_several_processes():
    source = open_source("digits:test")
    with process(1, 2), pytest.raises(ValueError, match="unreadable='skip'"):
        training_batches(
            source, Preprocessor(), Augmentation(), 8, seed=0, unreadable="skip"
        )
