"""Features of whole data sets: kept on disk, nearest neighbors, changed patches."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.data import open_source
from keras_vit.data.sources import digits
from keras_vit.evaluation import accuracy, neighbors
from keras_vit.evaluation import robustness as robustness_module
from keras_vit.evaluation.features import feature_network, features
from keras_vit.evaluation.nearest_neighbors import nearest_neighbors, neighbor_scores
from keras_vit.evaluation.predictions import predict
from keras_vit.evaluation.robustness import (
    changed_part,
    drop_patches,
    hide_center,
    robustness,
    shuffle_patches,
)
from keras_vit.training import config as configs
from tests.cases import array, perturb, random_array, tiny_vit

pytestmark = pytest.mark.any_backend
pytest.importorskip("sklearn", reason="neighbors need scikit-learn")


@pytest.fixture
def config(tmp_path):
    model = perturb(
        tiny_vit(input_shape=(8, 8, 1), patch_size=4, classes=10, registers=1)
    )
    model.save(tmp_path / "model.keras")
    return configs.Config(
        about="",
        command="",
        hardware="",
        expected="",
        model=configs.Model(weights=str(tmp_path / "model.keras")),
        data=configs.Data(train="digits:train", validation="", test="digits:test"),
        batch_size=64,
    )


@pytest.mark.slow
def test_features_of_a_block_are_its_class_token(config):
    source = open_source("digits:test")
    found, labels = features(feature_network(config, block=-2), source, config)
    assert found.shape == (360, 16)
    assert found.dtype == np.float32
    model = keras.saving.load_model(config.model.weights)
    pixels = np.stack([np.asarray(row["image"]) for row in source.examples().take(5)])
    images = model.preprocessor(pixels)
    ((_, prefix),) = model.features(images, [0], prefix_tokens=True)
    np.testing.assert_allclose(found[:5], array(prefix)[:, 0], rtol=0, atol=1e-5)
    head_input = keras.Model(model.input, model.get_layer("classifier").input)
    found, _ = features(feature_network(config), source, config)
    np.testing.assert_allclose(found[:5], array(head_input(images)), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="has no block 2"):
        feature_network(config, block=2)
    assert labels[:5].tolist() == [int(r["label"]) for r in source.examples().take(5)]


def test_features_are_kept_until_something_changes(config, tmp_path, capsys):
    source, cache = open_source("digits:test"), tmp_path / "features"
    model = feature_network(config)
    first = features(model, source, config, cache)
    (path,) = cache.iterdir()
    assert "features of digits:test ..." in capsys.readouterr().out
    again = features(feature_network(config), source, config, cache)
    assert str(path) in capsys.readouterr().out
    np.testing.assert_array_equal(again[0], first[0])
    np.testing.assert_array_equal(again[1], first[1])
    features(feature_network(config, block=0), source, config, cache)
    features(model, open_source("digits:validation"), config, cache)
    model.weights[-1].assign(model.weights[-1] + 1.0)
    features(model, source, config, cache)
    features(model, dataclasses.replace(source, exif=False), config, cache)
    assert len(list(cache.iterdir())) == 5


def test_two_commands_keep_the_same_features(config, tmp_path, monkeypatch):
    """The other one stores its features while this one writes."""
    source, model, write = open_source("digits:test"), feature_network(config), np.savez

    def after_the_other(file, **arrays):
        monkeypatch.setattr(np, "savez", write)
        features(model, source, config, tmp_path / "features")
        write(file, **arrays)

    monkeypatch.setattr(np, "savez", after_the_other)
    first = features(model, source, config, tmp_path / "features")
    again = features(model, source, config, tmp_path / "features")
    np.testing.assert_array_equal(again[0], first[0])
    assert len(list((tmp_path / "features").iterdir())) == 1


def test_images_of_another_size_are_reported(tmp_path):
    preprocessor = keras_vit.layers.Preprocessor(image_size=None)
    model = tiny_vit(input_shape=(8, 8, 3), patch_size=4, preprocessor=preprocessor)
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, side in zip(paths, (8, 10), strict=True):
        keras.utils.save_img(path, np.zeros((side, side, 3)), scale=False)
    found = dict(predict(model, paths, batch_size=2))
    assert found[paths[0]].shape == (5,)
    assert found[paths[1]] == "It has 10x10 pixels, and the model takes images of 8x8."


def test_scores_are_weighted_votes():
    reference = random_array(12, 4)
    labels = np.array([0, 1, 2, 0] * 3)
    queries = random_array(5, 4, seed=1)
    scores = neighbor_scores((reference, labels), queries, 4, 3, temperature=0.5)

    def unit(x):
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    similarity = unit(queries) @ unit(reference).T
    for query, row in enumerate(similarity):
        expected = np.zeros(4)
        for image in np.argsort(-row)[:3]:
            expected[labels[image]] += np.exp(row[image] / 0.5)
        np.testing.assert_allclose(scores[query], expected / expected.sum(), rtol=1e-5)
    alone = neighbor_scores((reference, labels), reference, 4, 1)
    assert alone.argmax(axis=1).tolist() == labels.tolist()
    with pytest.raises(ValueError, match="neighbors=0"):
        neighbor_scores((reference, labels), queries, 4, 0)


def test_accuracy_of_neighbors(config):
    results = nearest_neighbors(config, neighbors=3, block=0)
    assert results["accuracy"] > 0.5  # By chance: 0.1.
    assert (results["reference"], results["test"]) == (1257, 360)
    unset = dataclasses.replace(config, data=configs.Data(train="", validation=""))
    with pytest.raises(ValueError, match=r"need data\.train"):
        nearest_neighbors(unset)


@pytest.mark.slow
def test_duplicates_and_outliers():
    rows = random_array(12, 6)
    rows[7] = rows[2] * 3 + 1e-4
    rows[4] = -rows[[0, 1, 2, 3, 5]].sum(axis=0)
    similarities, numbers = neighbors.nearest(rows, 4)
    assert similarities.shape == numbers.shape == (12, 4)
    assert numbers[7, 0] == 2
    assert (np.diff(similarities) <= 1e-12).all()
    ((similarity, first, second),) = neighbors.duplicates(rows, 0.99)
    assert (first, second) == (2, 7)
    assert similarity > 0.99
    copies = np.repeat(random_array(1, 6), 9, axis=0)
    assert len(neighbors.duplicates(copies, 1.0)) == 9 * 8 / 2
    order = neighbors.outliers(similarities)
    assert sorted(order) == list(range(12))
    assert similarities[order[0]].mean() == similarities.mean(axis=1).min()
    for count in (2, 12):
        places = neighbors.plane(rows[:count])
        assert places.min() == 0
        assert places.max() == pytest.approx(1)
    with pytest.raises(ValueError, match="two images or more"):
        neighbors.nearest(rows[:1], 4)


@pytest.mark.parametrize("part", [0.0, 0.25, 0.5, 1.0])
def test_changed_patches(part):
    images = random_array(3, 8, 12, 2)
    grid, generator = (4, 6), np.random.default_rng(0)

    def patches(x):
        return x.reshape(3, 4, 2, 6, 2, 2).swapaxes(2, 3).reshape(3, 24, -1)

    dropped = patches(drop_patches(images, grid, part, generator))
    missing = (dropped == 0).all(axis=2)
    assert missing.sum(axis=1).tolist() == [24 * part] * 3
    np.testing.assert_array_equal(dropped[~missing], patches(images)[~missing])
    shuffled = patches(shuffle_patches(images, grid, part, generator))
    moved = (shuffled != patches(images)).any(axis=2).sum(axis=1)
    assert (moved <= 24 * part).all()
    assert (moved > 0).all() == (part > 0)
    np.testing.assert_array_equal(
        np.sort(shuffled.sum(axis=2), axis=1),
        np.sort(patches(images).sum(axis=2), axis=1),
    )
    hidden = hide_center(images, grid, part, generator)
    share = (hidden == 0).all(axis=3).mean()
    assert share == changed_part("hidden center", grid, part)
    assert share == pytest.approx(part, abs=0.1)
    assert missing.mean() == changed_part("dropped", grid, part)
    assert (hidden[:, 0, 0] == images[:, 0, 0]).all() == (part < 1)


def test_robustness_starts_at_the_accuracy(config, monkeypatch):
    monkeypatch.setattr(robustness_module, "PARTS", (0.0, 0.3))
    parts = set()

    def hidden_center(images, grid, part, generator):
        parts.add(part)
        return hide_center(images, grid, part, generator)

    monkeypatch.setitem(robustness_module.CHANGES, "hidden center", hidden_center)
    results = robustness(config)
    # Not the part of whole patches, of which another number could be hidden.
    assert parts == {0.0, 0.3}
    assert set(results) == {"dropped", "shuffled", "hidden center"}
    measured = accuracy.evaluate(config)["accuracy"]
    assert {row["0"] for row in results.values()} == {measured}
    images, labels, _ = digits()["test"]
    model = keras.saving.load_model(config.model.weights)
    hidden = hide_center(array(model.preprocessor(images)), (2, 2), 0.25, None)
    right = array(model(hidden)).argmax(axis=-1) == labels
    assert results["hidden center"]["0.25"] == pytest.approx(right.mean())
    assert results["hidden center"]["0.25"] != measured
    unset = dataclasses.replace(config, data=configs.Data(train="", validation=""))
    with pytest.raises(ValueError, match=r"needs data\.test"):
        robustness(unset)
