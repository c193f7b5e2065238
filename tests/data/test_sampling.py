import dataclasses

import numpy as np
import pytest

from keras_vit.data import sampling
from keras_vit.data.augment import Augmentation
from keras_vit.data.pipeline import batch_ids, training_batches
from keras_vit.data.sources import open_source
from keras_vit.layers import Preprocessor
from tests.data.streams import PIXELS, assert_same, collect

pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]


def test_an_epoch_has_as_many_examples_of_each_class():
    import tensorflow as tf

    labels = np.repeat([4, 0, 7], [7, 30, 1])  # No example of the other classes.
    np.random.default_rng(0).shuffle(labels)

    def drawn(epoch):
        seed = tf.constant((5, epoch), "int64")
        return sampling.repeats(labels, tf.constant(epoch, "int64"), seed).numpy()

    epochs = np.array([drawn(epoch) for epoch in range(6)])
    np.testing.assert_array_equal(epochs[3], drawn(3))
    assert (epochs.sum(axis=1) == 38).all()
    by_class = np.array([epochs[:, labels == label].sum(axis=1) for label in (0, 4, 7)])
    assert set(by_class.ravel()) == {12, 13}
    assert (by_class.sum(axis=1) == 6 * 38 / 3).all()
    assert set(epochs[:, labels == 0].ravel()) == {0, 1}
    assert set(epochs[:, labels == 4].ravel()) == {1, 2}
    assert (epochs[:, labels == 0].sum(axis=0) > 0).all()
    assert len({epoch[labels == 0].tobytes() for epoch in epochs}) == 6


def test_a_balanced_stream_resumes(folder):
    for path in sorted((folder / "ant").iterdir())[1:]:
        path.unlink()
    source = open_source(f"folder:{folder}")
    assert source.class_counts == (1, 6, 6)

    def stream(**arguments):
        return training_batches(
            source,
            Preprocessor(image_size=(8, 8)),
            Augmentation(horizontal_flip=True),
            5,
            seed=3,
            sampling="balanced",
            **arguments,
        )

    whole = collect(stream(epochs=3))
    labels = np.concatenate([y for _, y in whole])
    np.testing.assert_array_equal(np.bincount(labels[: 2 * 13]), [8, 9, 9])
    assert_same(collect(stream(first_step=4, cache=True), 3), whole[4:])
    names = np.array(source.class_names)
    for step in (0, 3, 6):
        _, numbers = whole[step]
        ids = batch_ids(source, 5, seed=3, step=step, sampling="balanced")
        assert [identifier.split("/")[0] for identifier in ids] == list(names[numbers])


def test_sources_that_cannot_be_balanced():
    source = open_source("digits")
    with pytest.raises(ValueError, match="must be None or 'balanced'; received 'even'"):
        training_batches(source, PIXELS, Augmentation(), 2, 0, sampling="even")
    for change, message in (
        ({"labels": "multi"}, "requires one class per image.*'multi'"),
        ({"labels": "regression"}, "requires one class per image.*'regression'"),
        ({"table": None}, "before the images are read.*use a folder or a table"),
    ):
        other = dataclasses.replace(source, **change)
        with pytest.raises(ValueError, match=message):
            training_batches(other, PIXELS, Augmentation(), 2, 0, sampling="balanced")


def test_repeated_augmentation_resumes(folder):
    source = open_source(f"folder:{folder}")
    count = source.num_examples

    def stream(**arguments):
        augmentation = Augmentation(pad_and_crop=4)
        size = Preprocessor(image_size=(8, 8))
        return training_batches(
            source, size, augmentation, 6, seed=3, repeats=3, **arguments
        )

    whole = collect(stream(epochs=4))
    assert len(whole) == 4 * count // 6  # As many as without repeats.
    ids = [batch_ids(source, 6, 3, step, repeats=3) for step in range(len(whole))]
    for (images, labels), names in zip(whole[: count // 6], ids, strict=False):
        assert names == [*names[:2]] * 3
        assert names[0] != names[1]  # Mixup mixes neighbors.
        np.testing.assert_array_equal(labels, [*labels[:2]] * 3)
        assert len({image.tobytes() for image in images[::2]}) > 1
    assert len({name for names in ids for name in names}) > count // 3
    assert_same(collect(stream(first_step=2, cache=True), 3), whole[2:5])
    other = [batch_ids(source, 4, 3, step, repeats=3) for step in range(3)]
    flat = [name for names in other for name in names]
    assert flat == [*flat[:2] * 3, *flat[6:8] * 3]
    for repeats in (0, 7, "3"):
        with pytest.raises(ValueError, match="repeats must be an int from 1 to batch_si"):
            training_batches(source, PIXELS, Augmentation(), 6, 0, repeats=repeats)
