"""Pictures of a trained network and photographs.

They are in `../shared/real`, outside of the repository.
"""

import numpy as np
import pytest
from scipy.stats import spearmanr

import keras_vit
from keras_vit.cli import command_line
from keras_vit.evaluation.nearest_neighbors import nearest_neighbors
from keras_vit.evaluation.predictions import images_in, read_images
from keras_vit.training import config as configs
from keras_vit.visualize import (
    attention_weights,
    head_maps,
    mean_attention_distance,
    position_similarity,
    similarity_and_distance,
)
from tests.conftest import GOLDENS

REAL = GOLDENS.parents[2] / "shared" / "real"

pytestmark = [
    pytest.mark.any_backend,
    pytest.mark.skipif(
        not REAL.is_dir(), reason=f"NOT TESTED: pictures of a trained network, no {REAL}"
    ),
]


@pytest.fixture(scope="module")
def model():
    return keras_vit.load_checkpoint(REAL / "dinov2_small_saliency")


@pytest.fixture(scope="module")
def weights(model):
    photos = read_images(images_in([str(REAL / "photos")])[:3], 3)
    images = [np.asarray(model.preprocessor(pixels)) for _, pixels in photos]
    return attention_weights(model, np.stack(images))


@pytest.mark.slow
def test_rows_of_large_activations_sum_to_1(weights):
    assert weights.shape == (3, 12, 6, 257, 257)
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_later_blocks_look_farther(model, weights):
    distances = mean_attention_distance(weights, model.grid_shape, 14, 1).mean(axis=1)
    # Except for the first, which looks far.
    assert spearmanr(range(1, 12), distances[1:]).statistic > 0.5


def test_the_class_token_looks_at_the_elephant(model, weights):
    maps = head_maps(weights, model)[1, -1].mean(axis=0)
    border = maps.copy()
    border[2:14, 2:14] = 0
    assert maps[2:14, 2:14].mean() > 1.5 * border.sum() / (256 - 144)


@pytest.mark.slow
def test_positions_are_less_similar_the_farther_apart_they_are(model):
    assert similarity_and_distance(position_similarity(model)) < -0.5
    assert (
        similarity_and_distance(position_similarity(model.resized((518, 518, 3)))) < -0.5
    )


@pytest.mark.slow
def test_the_nearest_neighbors_of_cifar10_have_its_class():
    """Check the accuracy: 56.4 % with features of transformers, on whole images."""
    config = configs.override(
        command_line.UNSPECIFIED,
        [
            f"model.weights={REAL / 'dinov2_small_saliency'}",
            "model.arguments.input_shape=112,112,3",
            "data.train=tfds:cifar10:train[:1000]",
            "data.test=tfds:cifar10:test[:1000]",
            f"data.data_dir={REAL.parent / 'tfds'}",
        ],
    )
    results = nearest_neighbors(config, neighbors=20, block=10)
    assert abs(results["accuracy"] - 0.564) < 0.01
