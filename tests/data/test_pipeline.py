import io

import numpy as np
import pytest

from keras_vit.data import pipeline
from keras_vit.data.augment import Augmentation
from keras_vit.data.pipeline import batch_ids, evaluation_batches, training_batches
from keras_vit.data.source import Source
from keras_vit.data.sources import open_source
from keras_vit.layers import Preprocessor
from tests.data.streams import PIXELS, assert_same, collect, on_threads

pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]
EVERYTHING = Augmentation(
    crop_area=(0.2, 1.0),
    pad_and_crop=2,
    horizontal_flip=True,
    randaugment="rand-m9-n1-mstd0.5-inc1",
    color_jitter=0.2,
    random_erasing=0.5,
    mixup=0.4,
    cutmix=1.0,
)


def arrays(images, labels=None, classes=None):
    """Return a source of images in memory, with labels that may be invalid."""
    import tensorflow as tf

    labels = np.arange(len(images)) if labels is None else labels
    reference = {
        "image": images,
        "label": np.asarray(labels, "int64"),
        "id": [f"n{i}" for i in range(len(images))],
    }
    return Source(
        "arrays",
        num_examples=len(images),
        num_classes=classes or len(images),
        class_names=(),
        image_shape=images.shape[1:],
        channels=images.shape[-1],
        references=lambda: tf.data.Dataset.from_tensor_slices(reference),
        reference_bytes=images[0].nbytes,
        read=lambda image: image,
    )


def numbers(count):
    """Return a source of one-pixel images whose value is their label."""
    return arrays(np.arange(count, dtype="float32").reshape(count, 1, 1, 1))


@pytest.mark.slow
def test_one_stream_on_any_number_of_threads_and_after_resume(folder):
    import tensorflow as tf

    def stream(**arguments):
        # With 18 images, batches of 5 span the ends of epochs.
        return training_batches(
            open_source(f"folder:{folder}"),
            Preprocessor(image_size=(10, 10)),
            EVERYTHING,
            5,
            seed=3,
            **arguments,
        )

    whole = collect(stream(), 12)
    assert whole[0][0].shape == (5, 10, 10, 3)
    assert whole[0][0].dtype == "float32"
    assert whole[0][1].shape == (5, 3)
    assert_same(collect(on_threads(stream(), 1), 12), whole)
    # The stream must not depend on TensorFlow's global generator.
    tf.random.set_seed(5)
    batches = on_threads(stream(first_step=11, cache=True), 5)
    assert_same(collect(batches, 1), whole[11:])


def test_the_stream_of_tfds_resumes(tfds_dir):
    def stream(first_step=0, seed=0):
        source = open_source("tfds:tiny:train[:75%]", tfds_dir)
        return training_batches(
            source, PIXELS, Augmentation(), 4, seed, first_step, shuffle_buffer=6
        )

    whole = collect(stream(), 8)
    assert_same(collect(stream(5), 3), whole[5:])
    other = collect(stream(seed=1), 8)
    assert not all(np.array_equal(a[0], b[0]) for a, b in zip(whole, other, strict=True))


def test_every_epoch_is_a_new_shuffle_of_all_examples():
    batches = training_batches(numbers(10), PIXELS, Augmentation(), 4, 0, epochs=4)
    found = collect(batches)
    assert batches.cardinality() == len(found) == 10
    labels = np.concatenate([y for _, y in found])
    np.testing.assert_array_equal(np.concatenate([x.ravel() for x, _ in found]), labels)
    assert labels.dtype == "int32"
    epochs = labels.reshape(4, 10)
    np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(10), (4, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 4


def test_a_batch_may_be_larger_than_the_set():
    batches = training_batches(numbers(3), PIXELS, Augmentation(), 8, seed=0)
    for _, labels in collect(batches, 3):
        assert np.bincount(labels).max() <= 4


def test_ids_are_those_of_the_batches(folder):
    source = open_source(f"folder:{folder}")
    preprocessor = Preprocessor(image_size=(8, 8))
    batches = collect(training_batches(source, preprocessor, Augmentation(), 7, 2), 6)
    names = np.array(source.class_names)
    for step, (_, labels) in enumerate(batches):
        ids = batch_ids(source, 7, seed=2, step=step)
        assert [identifier.split("/")[0] for identifier in ids] == list(names[labels])


def test_augmented_images_are_seeded_by_position_not_by_image():
    source = arrays(np.tile(np.arange(64.0).reshape(1, 8, 8, 1), (6, 1, 1, 1)))
    batches = training_batches(source, PIXELS, Augmentation(pad_and_crop=3), 6, 0)
    ((first, _), (second, _)) = collect(batches, 2)
    assert len({image.tobytes() for image in (*first, *second)}) > 8


def test_without_augmentation_training_sees_what_evaluation_sees(folder):
    source = open_source(f"folder:{folder}")
    preprocessor = Preprocessor.imagenet((8, 8), 0.9)
    ((x, y),) = collect(
        training_batches(source, preprocessor, Augmentation(), 18, seed=0, epochs=1)
    )
    ((images, labels, _),) = collect(evaluation_batches(source, preprocessor, 18))
    seen = {(image.tobytes(), label) for image, label in zip(x, y, strict=True)}
    expected = {(i.tobytes(), n) for i, n in zip(images, labels, strict=True)}
    assert seen == expected
    assert len(seen) == 18


def test_a_crop_is_resized_as_the_preprocessor_does(folder):
    source = open_source(f"folder:{folder}")
    preprocessor = Preprocessor.imagenet((20, 9), None)
    whole = Augmentation(crop_area=(1.0, 1.0))
    ((x, y),) = collect(training_batches(source, preprocessor, whole, 18, 0, epochs=1))
    ((images, labels, _),) = collect(evaluation_batches(source, preprocessor, 18))
    for image, label in zip(x, y, strict=True):
        distance = np.abs(images[labels == label] - image).max((1, 2, 3))
        assert distance.min() < 1e-5


def test_pixels_of_one_augmentation_are_scaled_by_the_preprocessor():
    images = np.arange(48, dtype="float32").reshape(1, 4, 4, 3)
    preprocessor = Preprocessor([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
    augmentation = Augmentation(horizontal_flip=True)
    batches = training_batches(arrays(images), preprocessor, augmentation, 1, 0)
    expected = np.asarray((images[0] - [1, 2, 3]) / [4, 5, 6], "float32")
    flips = 0
    for image, _ in collect(batches, 20):
        flipped = np.allclose(image[0], expected[:, ::-1], atol=1e-5)
        assert flipped or np.allclose(image[0], expected, atol=1e-5)
        flips += flipped
    assert 3 < flips < 17
    padded = Augmentation(pad_and_crop=4)
    batches = training_batches(arrays(images), preprocessor, padded, 1, 0)
    black = -np.array([1 / 4, 2 / 5, 3 / 6], "float32")
    found = np.concatenate([image[0].reshape(-1, 3) for image, _ in collect(batches, 9)])
    allowed = np.concatenate([expected.reshape(-1, 3), black[None]])
    distance = np.abs(found[:, None] - allowed[None]).max(-1).min(1)
    assert distance.max() < 1e-5


@pytest.mark.parametrize(
    ("name", "value"),
    [("randaugment", "rand-m9-n1-inc1"), ("color_jitter", 0.4), ("random_erasing", 1.0)],
)
def test_each_augmentation_of_pixels_changes_images(name, value):
    image = 40 + np.arange(192, dtype="uint8").reshape(1, 8, 8, 3) % 151
    augmentation = Augmentation(**{name: value})
    batches = training_batches(arrays(image), PIXELS, augmentation, 16, 0)
    ((images, _),) = collect(batches, 1)
    assert not np.allclose(images, image, atol=0.5)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 10, 64])
def test_evaluation_sees_every_image_once(batch_size):
    dataset = evaluation_batches(numbers(7), PIXELS, batch_size)
    batches = collect(dataset)
    assert dataset.cardinality() == len(batches)
    assert {x.shape for x, _, _ in batches[:-1]} <= {(batch_size, 1, 1, 1)}
    images, labels, weights = (np.concatenate(p) for p in zip(*batches, strict=True))
    assert len(batches) == -(-7 // batch_size)
    np.testing.assert_array_equal(weights, np.ones(7))
    np.testing.assert_array_equal(images.ravel(), np.arange(7))
    np.testing.assert_array_equal(labels, np.arange(7))


def test_batches_for_several_devices(monkeypatch):
    monkeypatch.setattr(pipeline, "batch_devices", lambda: 4)
    batches = collect(evaluation_batches(numbers(7), PIXELS, 4))
    assert [len(weights) for *_, weights in batches] == [4, 4]
    images, labels, weights = (np.concatenate(p) for p in zip(*batches, strict=True))
    np.testing.assert_array_equal(images.ravel(), [*range(7), 0])
    np.testing.assert_array_equal(labels, [*range(7), 0])
    # Keras divides the sum by 8.
    np.testing.assert_allclose(weights, [*([8 / 7] * 7), 0], rtol=1e-6)


def test_images_of_many_channels():
    source = arrays(np.full((3, 4, 4, 7), 9, "uint8"))
    ((images, *_),) = collect(evaluation_batches(source, PIXELS, 3))
    assert (images == 9).all()
    augmentation = Augmentation(crop_area=(1.0, 1.0))
    ((images, _),) = collect(training_batches(source, PIXELS, augmentation, 3, 0), 1)
    assert (images == 9).all()


def test_formats(tmp_path, encoded):
    image_module = pytest.importorskip("PIL.Image", reason="makes the pictures")
    pictures = [
        ("JPEG", "RGB", {}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("PNG", "RGB", {}),
        ("PNG", "L", {}),
        ("PNG", "P", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "LA", {}),
        ("PNG", "1", {}),
        ("BMP", "RGB", {}),
        ("GIF", "P", {}),
        ("WEBP", "RGB", {"lossless": True}),
    ]
    (tmp_path / "all").mkdir()
    expected = []
    for number, (file_format, mode, options) in enumerate(pictures):
        content = encoded(number, mode, file_format, **options)
        # The file extension need not match the format.
        (tmp_path / "all" / f"{number:02}.jpg").write_bytes(content)
        expected.append(np.asarray(image_module.open(io.BytesIO(content)).convert("RGB")))
    source = open_source(f"folder:{tmp_path}")
    preprocessor = Preprocessor(0.0, 1.0, image_size=(12, 16))
    ((images, _, _),) = collect(evaluation_batches(source, preprocessor, len(pictures)))
    difference = np.abs(images - expected).mean((1, 2, 3))
    # There is no unique conversion of CMYK to RGB.
    assert difference.max() < 1.5, list(zip(pictures, difference, strict=True))
    ((cropped, _),) = collect(
        training_batches(
            source, preprocessor, Augmentation(crop_area=(1.0, 1.0)), 12, 0, epochs=1
        )
    )
    assert {i.tobytes() for i in cropped} == {i.tobytes() for i in images}


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_is_an_error_that_names_the_example(label):
    import tensorflow as tf

    images = np.zeros((4, 2, 2, 1), "float32")
    source = arrays(images, labels=[0, 1, label, 2], classes=3)
    for batches in (
        evaluation_batches(source, PIXELS, 2),
        training_batches(source, PIXELS, Augmentation(mixup=0.2), 2, 0),
    ):
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=rf"0 to 2[^\n]*\[{label}\][^\n]*n2"
        ):
            collect(batches, 2)


def test_labels_are_as_many_as_the_model_has():
    mixing = Augmentation(mixup=0.2)
    batches = training_batches(numbers(4), PIXELS, mixing, 4, 0, num_classes=7)
    ((_, labels),) = collect(batches, 1)
    assert labels.shape == (4, 7)
    np.testing.assert_allclose(labels.sum(1), 1, rtol=1e-6)
    assert not labels[:, 4:].any()


def test_bad_arguments(folder):
    source = numbers(4)
    with pytest.raises(ValueError, match="4 classes, the model 3"):
        training_batches(source, PIXELS, Augmentation(), 2, 0, num_classes=3)
    with pytest.raises(ValueError, match="batch_size"):
        evaluation_batches(source, PIXELS, 0)
    with pytest.raises(ValueError, match="'error' or 'skip'"):
        evaluation_batches(source, PIXELS, 1, unreadable="ignore")
    with pytest.raises(ValueError, match="first_step"):
        training_batches(source, PIXELS, Augmentation(), 2, 0, first_step=-1)
    with pytest.raises(ValueError, match="Step 3 is after the last of 1 epochs of 4"):
        training_batches(source, PIXELS, Augmentation(), 2, 0, first_step=3, epochs=1)
    with pytest.raises(ValueError, match="need images with 3 channels"):
        training_batches(source, PIXELS, EVERYTHING, 2, 0)
    with pytest.raises(ValueError, match="differ in size"):
        evaluation_batches(open_source(f"folder:{folder}"), PIXELS, 2)
