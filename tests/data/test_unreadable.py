"""Images, records and files that cannot be read."""

import collections
import logging
import struct
import zlib

import numpy as np
import pytest

from keras_vit.data.augment import Augmentation
from keras_vit.data.pipeline import batch_ids, evaluation_batches, training_batches
from keras_vit.data.sources import open_source
from keras_vit.layers import Preprocessor
from tests.data.streams import PIXELS, assert_same, collect, on_threads

pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]


def png_header(width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + header
        + struct.pack(">I", zlib.crc32(header))
    )


BAD = {
    "ant/truncated.jpg": "JPEG",
    "ant/zero.png": "empty",
    "bee/huge.jpg": "JPEG",
    "bee/part.gif": "first frame does not fill its screen",
    "bee/text ünï.jpg": "Unknown image file format",
    "çat/gone.jpg": "No such file",
    "çat/huge.png": "PNG",
    "çat/palette.bmp": "palette",
}


@pytest.fixture
def damaged(folder, encoded):
    """Return a source of 18 good images with those of `BAD` in between."""
    whole = encoded()
    start = whole.find(b"\xff\xc0")
    size = struct.pack(">HH", 65500, 65500)
    gif = encoded(mode="P", file_format="GIF")
    contents = (
        whole[: len(whole) // 2],
        b"",
        whole[: start + 5] + size + whole[start + 9 :],
        gif[:6] + struct.pack("<HH", 99, 99) + gif[10:],
        b"This is not an image.",
        whole,
        png_header(100_000, 100_000),
        encoded(mode="P", file_format="BMP"),
    )
    for name, content in zip(BAD, contents, strict=True):
        (folder / name).write_bytes(content)
    source = open_source(f"folder:{folder}")
    (folder / "çat" / "gone.jpg").unlink()
    return source


def test_an_unreadable_image_is_an_error_that_names_it(damaged, folder):
    import tensorflow as tf

    batches = evaluation_batches(damaged, Preprocessor(image_size=(8, 8)), 4)
    for name, reason in list(BAD.items())[:2]:
        with pytest.raises(tf.errors.InvalidArgumentError) as error:
            collect(batches)
        assert f"{name} cannot be read: " in str(error.value)
        assert reason in str(error.value)
        assert "unreadable='skip'" in str(error.value)
        # Replace the bad file to reach the next one.
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes((folder / "ant" / "0.jpg").read_bytes())


@pytest.mark.slow
def test_training_too_stops_at_an_unreadable_image(damaged):
    import tensorflow as tf

    preprocessor = Preprocessor(image_size=(8, 8))
    cropped = Augmentation(crop_area=(0.99, 1.0))
    batches = training_batches(damaged, preprocessor, cropped, 4, seed=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="cannot be read") as error:
        collect(on_threads(batches, 1), 10)
    assert any(name in str(error.value) for name in BAD)


def test_evaluation_skips_unreadable_images(damaged, caplog):
    preprocessor = Preprocessor(image_size=(8, 8))
    with caplog.at_level(logging.WARNING):
        batches = collect(evaluation_batches(damaged, preprocessor, 5, None, "skip"))
    images, labels, weights = (np.concatenate(p) for p in zip(*batches, strict=True))
    np.testing.assert_array_equal(weights, np.ones(18))
    np.testing.assert_array_equal(labels, np.repeat([0, 1, 2], 6))
    assert len({image.tobytes() for image in images}) == 18
    messages = [record.getMessage() for record in caplog.records]
    for name, reason in BAD.items():
        (message,) = [m for m in messages if f"skipped {name}," in m]
        assert reason in message
    assert sum("(7 so far)" in message for message in messages) == 1


@pytest.mark.slow
def test_training_skips_unreadable_images_and_resumes_all_the_same(damaged, caplog):
    def stream(first_step=0):
        return training_batches(
            damaged,
            Preprocessor(image_size=(8, 8)),
            Augmentation(horizontal_flip=True),
            4,
            seed=0,
            first_step=first_step,
            unreadable="skip",
        )

    with caplog.at_level(logging.WARNING):
        whole = collect(stream(), 8)
    assert len([r for r in caplog.records if "skipped" in r.getMessage()]) == len(BAD)
    assert_same(collect(stream(5), 3), whole[5:])
    labels = damaged.references().as_numpy_iterator()
    classes = {e["id"].decode(): e["label"] for e in labels}
    for step, (_, found) in enumerate(whole):
        for name, label in zip(batch_ids(damaged, 4, 0, step), found, strict=True):
            assert name in BAD or classes[name] == label


def test_a_set_without_a_readable_image_is_an_error(tmp_path):
    import tensorflow as tf

    (tmp_path / "ant").mkdir()
    for number in range(3):
        (tmp_path / "ant" / f"{number}.jpg").write_text("no image")
    source = open_source(f"folder:{tmp_path}")
    preprocessor = Preprocessor(image_size=(8, 8))
    for batches in (
        training_batches(source, preprocessor, Augmentation(), 2, 0, unreadable="skip"),
        evaluation_batches(source, preprocessor, 2, unreadable="skip"),
    ):
        message = r"cannot be read.*replace them"
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            collect(batches, 1)


@pytest.mark.slow
def test_a_damaged_file_of_tfds_is_an_error(tfds_dir):
    import tensorflow as tf

    source = open_source("tfds:damaged", tfds_dir)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"damaged: .*examples"):
        collect(evaluation_batches(source, PIXELS, 4))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"damaged: .*examples"):
        collect(training_batches(source, PIXELS, Augmentation(), 4, 0), 20)


@pytest.fixture
def shards(tmp_path):
    """Create a TFDS set of 40 images in four files; return the set and the files."""
    tfds = pytest.importorskip("tensorflow_datasets", reason="makes the set")
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(8, 8, 3)),
            "label": tfds.features.ClassLabel(names=["ant", "bee"]),
        }
    )
    image = np.zeros((8, 8, 3), "uint8")
    tfds.dataset_builders.store_as_tfds_dataset(
        name="sharded",
        version="1.0.0",
        data_dir=tmp_path,
        features=features,
        split_datasets={
            "train": [(n, {"image": image, "label": n % 2}) for n in range(40)]
        },
        disable_shuffling=True,
        download_config=tfds.download.DownloadConfig(num_shards=4),
    )
    files = sorted(tmp_path.glob("sharded/1.0.0/*.tfrecord*"))
    assert len(files) == 4
    return tmp_path, files


@pytest.mark.parametrize(
    ("change", "unreadable"),
    [("gone", "error"), pytest.param("truncated", "skip", marks=pytest.mark.slow)],
)
def test_a_lost_shard_is_an_error_that_names_it(change, unreadable, shards):
    import tensorflow as tf

    directory, files = shards
    source = open_source("tfds:sharded", directory)
    training = training_batches(
        source, PIXELS, Augmentation(), 4, 0, unreadable=unreadable
    )
    evaluation = evaluation_batches(source, PIXELS, 4, unreadable=unreadable)
    if change == "gone":
        files[2].unlink()
    else:
        files[2].write_bytes(files[2].read_bytes()[:-100])
    for batches, steps in ((training, 30), (evaluation, None)):
        with pytest.raises(tf.errors.InvalidArgumentError) as error:
            collect(batches, steps)
        assert files[2].name in str(error.value)
    if change == "gone":
        with pytest.raises(FileNotFoundError, match=rf"{files[2].name} is missing"):
            open_source("tfds:sharded", directory)


def test_a_shard_with_too_many_records_is_an_error_that_names_it(shards):
    directory, files = shards
    files[1].write_bytes(2 * files[1].read_bytes())
    with pytest.raises(ValueError, match=rf"{files[1].name} has 20 of 10 examples"):
        open_source("tfds:sharded:train[:50%]", directory)


def test_data_that_vanish_while_they_are_read_are_an_error(shards, folder):
    import tensorflow as tf

    directory, _ = shards
    sources = (
        open_source("tfds:sharded", directory),
        open_source(f"folder:{folder}"),
    )
    preprocessor = Preprocessor(0.0, 1.0, image_size=(8, 8))
    for source, path in zip(sources, (directory / "sharded", folder), strict=True):
        batches = iter(
            training_batches(
                source, preprocessor, Augmentation(), 4, 0, unreadable="skip"
            )
        )
        next(batches)
        path.rename(path.with_name(f"{path.name} elsewhere"))
        path.mkdir()  # The state after a disk is unmounted.
        with pytest.raises(tf.errors.InvalidArgumentError, match=str(path)):
            collections.deque(batches, maxlen=0)
