import io

import numpy as np
import pytest


@pytest.fixture
def encoded():
    """Return a function that encodes a random image in a mode and format of Pillow."""
    image_module = pytest.importorskip("PIL.Image", reason="makes the pictures")

    def encode(seed=0, mode="RGB", file_format="JPEG", size=(12, 16), **options):
        coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), "uint8")
        picture = image_module.fromarray(coarse).resize(size[::-1]).convert(mode)
        buffer = io.BytesIO()
        picture.save(buffer, file_format, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture
def folder(tmp_path, encoded):
    """Create a folder of three classes with six JPEGs each."""
    for label, name in enumerate(("ant", "bee", "çat")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(6):
            content = encoded(10 * label + number, size=(12 + number, 16))
            (tmp_path / "set" / name / f"{number}.jpg").write_bytes(content)
    return tmp_path / "set"


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory):
    """Prepare the TFDS sets `tiny` (train 20, test 7), `unlabelled` and `damaged`."""
    tfds = pytest.importorskip(
        "tensorflow_datasets", reason="TFDS's sets need tensorflow-datasets"
    )
    directory = tmp_path_factory.mktemp("tfds")
    image = tfds.features.Image(shape=(8, 8, 3))
    label = tfds.features.ClassLabel(names=["ant", "bee", "cat"])

    def store(name, features, **splits):
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            data_dir=directory,
            features=tfds.features.FeaturesDict(features),
            split_datasets=splits,
            disable_shuffling=True,
        )

    def example(number):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), "uint8")
        return {"image": pixels, "label": number % 3}

    features = {"image": image, "label": label}
    train = [(n, example(n)) for n in range(20)]
    test = [(n, example(n)) for n in range(20, 27)]
    store("tiny", features, train=train, test=test)
    pictures = [(n, {"image": e["image"]}) for n, e in train]
    store("unlabelled", {"image": image}, train=pictures)
    store("damaged", features, train=train)
    (record,) = directory.glob("damaged/1.0.0/*.tfrecord*")
    record.write_bytes(record.read_bytes()[:-500])
    return directory
