"""Errors for bad images before the first step, for every kind of input of Keras."""

import warnings

import keras
import numpy as np
import pytest

from tests.cases import random_array, tiny_vit

GOOD, LABELS = random_array(2, 16, 24, 3), np.array([0, 1])
BAD = random_array(2, 24, 16, 3)


class Batches(keras.utils.PyDataset):
    def __init__(self, images):
        super().__init__()
        self.images = images

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return self.images, LABELS


def generator(images):
    for _ in range(2):
        yield images, LABELS


FEEDS = {
    "dictionary": lambda images: {"x": {"images": images}, "y": LABELS},
    "dictionary with more": lambda images: {
        "x": {"extra": LABELS, "images": images},
        "y": LABELS,
    },
    "list": lambda images: {"x": [images], "y": LABELS},
    "generator": lambda images: {"x": generator(images)},
    "PyDataset": lambda images: {"x": Batches(images)},
    "validation arrays": lambda images: {
        "x": GOOD,
        "y": LABELS,
        "validation_data": (images, LABELS),
    },
    "validation PyDataset": lambda images: {
        "x": GOOD,
        "y": LABELS,
        "validation_data": Batches(images),
    },
}


@pytest.fixture(scope="module")
def model():
    model = tiny_vit(num_layers=1)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


@pytest.mark.parametrize("feed", FEEDS)
def test_fit(model, feed):
    before = model.get_weights()
    with pytest.raises(ValueError, match="images of 16x24 pixels"):
        model.fit(**FEEDS[feed](BAD), verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)
    if "more" not in feed:  # Keras itself warns about additional entries.
        steps = {"steps_per_epoch": 2} if feed == "generator" else {}
        history = model.fit(**FEEDS[feed](GOOD), verbose=0, **steps)
        assert np.isfinite(history.history["loss"]).all()


def loader(images, **options):
    torch = pytest.importorskip("torch", reason="has the DataLoader")
    data = torch.utils.data.TensorDataset(
        *map(torch.tensor, (images, LABELS[: len(images)]))
    )
    return torch.utils.data.DataLoader(data, **{"batch_size": 2, **options})


@pytest.mark.filterwarnings("ignore:.*shuffle=True")
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_torch_loaders_are_checked_before_the_first_step(model, method):
    sampled = loader(GOOD, batch_size=None)  # Unbatched images.
    for bad in (loader(BAD), loader(BAD, shuffle=True), sampled):
        with pytest.raises(ValueError, match=r"model takes (images|a batch of)"):
            getattr(model, method)(bad, verbose=0)
        # Under JAX, an error inside Keras's loop would leave the model without weights.
        assert np.isfinite(model.evaluate(GOOD, LABELS, verbose=0))
    with pytest.raises(ValueError, match="one image or more; received an empty"):
        model.evaluate(loader(GOOD[:0]), verbose=0)
    assert np.isfinite(model.evaluate(loader(GOOD), verbose=0))


def test_no_images(model, tensorflow):
    empty = {"x": GOOD[:0], "y": LABELS[:0]}
    for method in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=r"one image or more; .*\(0, 16, 24, 3\)"):
            method(**empty, verbose=0)
    with pytest.raises(ValueError, match="one image or more"):
        model.fit(GOOD, LABELS, validation_data=(GOOD[:0], LABELS[:0]), verbose=0)
    tensor = keras.ops.convert_to_tensor(GOOD[:0])
    dataset = tensorflow.data.Dataset.from_tensor_slices(GOOD[:0]).batch(2)
    for nothing in (GOOD[:0], tensor, dataset, iter_nothing()):
        with pytest.raises(ValueError, match="one image or more"):
            model.predict(nothing, verbose=0)


def iter_nothing():
    yield from ()


def test_validation_data_by_position(model):
    with pytest.raises(ValueError, match="images of 16x24 pixels"):
        model.fit(GOOD, LABELS, 2, 1, 0, None, 0.0, (BAD, LABELS))


def test_ragged_images(model, tensorflow):
    ragged = tensorflow.RaggedTensor.from_row_lengths(random_array(4, 24, 3), [2, 2])
    with pytest.raises(ValueError, match="one size; received a ragged tensor"):
        model.predict(ragged, verbose=0)


@pytest.mark.parametrize("feed", ["array", "generator", "PyDataset"])
def test_unscaled_pixels_warn_once(feed):
    model = tiny_vit(num_layers=1)
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=False)
    pixels = np.abs(80 * GOOD)
    feeds = {
        "array": (pixels,),
        "generator": generator(pixels),
        "PyDataset": Batches(pixels),
    }
    with pytest.warns(
        UserWarning, match=r"at most 1\. The.*model\.preprocessor\(images\)"
    ):
        model._checked_data(feeds[feed])
    scaled = keras.ops.convert_to_numpy(model.preprocessor(pixels))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model._checked_data(pixels)
        tiny_vit(num_layers=1)._checked_data(GOOD)
        tiny_vit(num_layers=1)._checked_data(scaled)
