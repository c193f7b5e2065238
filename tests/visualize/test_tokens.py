"""Pictures of merged patches and of depths."""

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.visualize import merged_patches, token_depths, token_groups
from tests.cases import array, random_images, tiny_vit
from tests.layers.test_token_halting import SIZES, model_of


@pytest.mark.any_backend
def test_groups_are_those_of_the_features():
    model = tiny_vit(**SIZES, token_reduction=[3, 2])
    images = random_images(model)
    (grid,) = model.features(images)
    for groups, features in zip(token_groups(model, images), array(grid), strict=True):
        assert len(np.unique(groups)) == 7
        for group in np.unique(groups):
            assert len(np.unique(features[groups == group], axis=0)) == 1


@pytest.mark.any_backend
def test_depths():
    model = model_of()
    images = random_images(model)
    depths = token_depths(model, images)
    assert depths.shape == (2, 3, 4)
    assert depths.min() == 1
    assert depths.max() == 3
    names = [f"block_{i}" for i in range(3)]
    outputs = [model.get_layer(name).output[4] for name in names]
    active = keras.Model(model.input, outputs)(images)
    expected = sum(array(x).astype(int) for x in active)[:, 1:]
    np.testing.assert_array_equal(depths.reshape(2, -1), expected)


@pytest.mark.any_backend
def test_borders_and_errors():
    groups = np.array([[0, 0], [0, 1]])
    shown = merged_patches(np.full((8, 8, 1), 9.0), groups)
    assert (shown[1:3, 1:7] == 9).all()
    assert (shown[0] != 9).any(axis=-1).all()
    with pytest.raises(ValueError, match="received 8x9 pixels"):
        merged_patches(np.zeros((8, 9, 3)), groups)
    with pytest.raises(ValueError, match="needs a model that merges"):
        token_groups(tiny_vit(), random_images(tiny_vit()))
    with pytest.raises(ValueError, match="do not stop"):
        keras_vit.visualize.token_depths(tiny_vit(), random_images(tiny_vit()))
