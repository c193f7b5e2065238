import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.layers import Classifier, MaskTransformer
from tests.cases import array, perturb, random_array, random_images, tiny_vit


def segmenter(head=None, backbone=None, blocks=1):
    head = head or MaskTransformer(3, num_layers=1, num_heads=2)
    return keras_vit.SegmentationModel(backbone or tiny_vit(), head, blocks)


def interpolated(grid, axis, size):
    """Interpolate linearly along an axis; the border is repeated."""
    position = (np.arange(size) + 0.5) * grid.shape[axis] / size - 0.5
    position = np.clip(position, 0, grid.shape[axis] - 1)
    first = np.minimum(position.astype(int), grid.shape[axis] - 2)
    shape = [-1 if i == axis else 1 for i in range(grid.ndim)]
    share = (position - first).reshape(shape)
    return (1 - share) * np.take(grid, first, axis) + share * np.take(
        grid, first + 1, axis
    )


def test_logits_are_those_of_the_patches_interpolated():
    backbone = perturb(tiny_vit())
    head = Classifier(3)
    model = segmenter(head, backbone, blocks=[0, -1])
    perturb(head)
    images = random_images(backbone)
    grid = np.concatenate(
        [array(tokens) for tokens in backbone.features(images, [0, -1])], axis=-1
    )
    logits = grid @ array(head.kernel) + array(head.bias)
    expected = interpolated(interpolated(logits, 1, 16), 2, 24)
    outputs = array(model(images))
    assert outputs.shape == (2, 16, 24, 3)
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-4)


@pytest.mark.slow_elsewhere
def test_a_frozen_backbone_stays_as_it_is_and_ignored_pixels_do_not_count():
    backbone = tiny_vit()
    backbone.trainable = False
    model = segmenter(Classifier(3), backbone)
    perturb(model.head)
    before = [array(weight) for weight in backbone.weights]
    head = array(model.head.kernel)
    images = random_images(backbone)
    masks = np.random.default_rng(0).integers(0, 3, (2, 16, 24))
    masks[:, :10] = 255
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
    model.compile(keras.optimizers.SGD(0.1), loss)
    logits = array(model(images))[:, 10:].astype("float64")
    likelihoods = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    likelihoods = np.take_along_axis(likelihoods, masks[:, 10:, :, None], -1)
    found = model.evaluate(images, masks, verbose=0)
    np.testing.assert_allclose(found, -np.log(likelihoods).mean(), rtol=1e-4)
    model.fit(images, masks, verbose=0)
    for old, weight in zip(before, backbone.weights, strict=True):
        np.testing.assert_array_equal(old, array(weight))
    assert not np.array_equal(head, array(model.head.kernel))


@pytest.mark.any_backend
def test_a_saved_model_is_restored_without_the_unused_classifier(tmp_path):
    backbone = tiny_vit()
    backbone.trainable = False
    model = perturb(segmenter(backbone=backbone, blocks=2))
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    images = random_images(backbone)
    np.testing.assert_array_equal(array(model(images)), array(restored(images)))
    assert not any("classifier" in weight.path for weight in restored.weights)
    trained = [weight.path for weight in restored.trainable_weights]
    assert trained == [weight.path for weight in model.head.trainable_weights]


@pytest.mark.any_backend
def test_the_preprocessor_keeps_the_whole_image():
    preprocessor = keras_vit.layers.Preprocessor.imagenet((16, 24), 0.875)
    model = segmenter(backbone=tiny_vit(preprocessor=preprocessor))
    assert model.preprocessor.image_size == (16, 24)
    assert model.preprocessor.crop_fraction is None
    assert model.preprocessor.mean == preprocessor.mean
    assert model.preprocessor.resize == preprocessor.resize


@pytest.mark.any_backend
def test_heads_and_blocks_that_do_not_fit():
    with pytest.raises(ValueError, match=r"2 rows and 3 columns.*\(None, 1, 1, 16\)"):
        segmenter(keras.layers.GlobalAveragePooling2D(keepdims=True, name="pool"))
    with pytest.raises(ValueError, match="The model has 2 blocks"):
        segmenter(blocks=[5])
    with pytest.raises(ValueError, match="16x24 pixels"):
        segmenter()(random_array(1, 8, 8, 3))
