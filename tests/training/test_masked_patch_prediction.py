import keras
import numpy as np
import pytest

from keras_vit.layers import Patches, Preprocessor
from keras_vit.training import MaskedPatchPrediction
from tests.cases import array, perturb, random_array, random_images, tiny_vit
from tests.formulas import softmax

PREFIX = 3  # A class token and two registers.


def model_of(ratio=0.5, mask_probability=0.8, replace_probability=0.1, **overrides):
    backbone = tiny_vit(
        **{
            "patch_size": 4,
            "include_top": False,
            "pooling": None,
            "class_token": True,
            "registers": 2,
            **overrides,
        }
    )
    return MaskedPatchPrediction(backbone, ratio, mask_probability, replace_probability)


@pytest.mark.parametrize("channels", [1, 3])
def test_targets(channels):
    """Check the targets for pixels at multiples of 32 and for other pixels."""
    mean, std = [120.0, 110.0, 100.0][:channels], [60.0, 50.0, 40.0][:channels]
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 24, channels))
    for level in range(8):
        pixels[2 + level // 6, :4, 4 * (level % 6) :][:, :4] = 32 * level
    pixels[3, 8:] = 255
    model = model_of(
        input_shape=(16, 24, channels), preprocessor=Preprocessor(mean, std, (16, 24))
    )
    expected = np.zeros((4, 24), int)
    for image in range(4):
        for patch in range(24):
            y, x = 4 * (patch // 6), 4 * (patch % 6)
            colour = pixels[image, y : y + 4, x : x + 4].mean((0, 1))
            for value in colour:
                expected[image, patch] = 8 * expected[image, patch] + int(value // 32)
    targets = array(model.targets(model.preprocessor(pixels)))
    np.testing.assert_array_equal(targets, expected)
    assert targets.max() == 8**channels - 1


def test_beyond_white_and_black():
    images = np.stack([np.full((16, 24, 3), 1.5), np.full((16, 24, 3), -1.5)])
    targets = array(model_of().targets(images.astype("float32")))
    np.testing.assert_array_equal(targets, [[511] * 24, [0] * 24])


@pytest.mark.any_backend
def test_kept_patches_are_predicted_from_the_tokens_of_the_backbone():
    model = perturb(model_of(mask_probability=0, replace_probability=0))
    images = random_images(model, 3)
    outputs = model(images, training=True)
    tokens = array(model.backbone(images)).astype("float64")
    w = {path: array(weight) for path, weight in model.weights_by_path().items()}
    for image, patches in enumerate(array(outputs["patches"])):
        expected = tokens[image, PREFIX + patches] @ w["prediction/kernel"]
        np.testing.assert_allclose(
            array(outputs["predictions"])[image],
            expected + w["prediction/bias"],
            rtol=0,
            atol=1e-4,
        )


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "weights", [pytest.param(None, marks=pytest.mark.slow), [1.0, 0.0, 2.0]]
)
def test_loss_and_accuracy(weights):
    model = perturb(model_of())
    # The images are dark (pixels around 28), so that some patches have class 0, which the
    # biased model predicts.
    images = random_array(3, 16, 24, 3, scale=0.1) - 0.78
    model.get_layer("prediction").bias.assign(np.eye(1, 512)[0] * 3)
    model.compile()
    outputs = {name: array(value) for name, value in model(images).items()}
    targets = array(model.targets(images))
    chosen = np.take_along_axis(targets, outputs["patches"], axis=1)
    probability = softmax(outputs["predictions"].astype("float64"))
    right = np.take_along_axis(probability, chosen[..., None], axis=-1)[..., 0]
    hits = (outputs["predictions"].argmax(-1) == chosen).mean(1)
    assert 0 < hits.mean() < 1
    by_image = np.ones(3) if weights is None else np.array(weights)
    results = model.evaluate(
        images,
        sample_weight=None if weights is None else by_image,
        verbose=0,
        return_dict=True,
    )
    # Keras divides the loss by the number of images, and metrics by the sum of weights.
    loss = np.mean(by_image * -np.log(right).mean(1))
    np.testing.assert_allclose(results["loss"], loss, rtol=1e-5)
    accuracy = np.sum(by_image * hits) / by_image.sum()
    np.testing.assert_allclose(results["accuracy"], accuracy, rtol=1e-5)


@pytest.mark.slow_elsewhere
def test_guessing_is_where_it_starts():
    model = model_of()
    model.compile()
    loss = model.evaluate(random_images(model, 3), verbose=0)[0]
    np.testing.assert_allclose(loss, np.log(512), rtol=1e-5)


@pytest.mark.any_backend
def test_shares_of_the_corruptions():
    model = model_of(
        input_shape=(64, 64, 3), ratio=0.4, positions="none", registers=0, num_layers=1
    )
    layer, encoder = (
        model.get_layer("corruption"),
        model.backbone.get_layer("patch_encoder"),
    )
    patches = array(Patches(4)(random_array(32, 64, 64, 3)))
    before = array(encoder.projection(patches))
    after, corrupted = map(array, layer(patches, training=True))
    after = after[:, 1:]  # Without the class token.
    chosen = np.zeros((32, 256), bool)
    np.put_along_axis(chosen, corrupted, True, axis=1)
    assert np.all(chosen.sum(1) == round(0.4 * 256))
    kept = np.all(after == before, axis=-1)
    masked = np.all(after == array(layer.mask_token), axis=-1)
    assert np.all(kept[~chosen])
    np.testing.assert_allclose(masked.sum() / chosen.sum(), 0.8, atol=0.03)
    np.testing.assert_allclose((kept & chosen).sum() / chosen.sum(), 0.1, atol=0.02)
    replaced = np.argwhere(~kept & ~masked)
    distances = []
    for image, patch in replaced:
        (source,) = np.flatnonzero(np.all(before[image] == after[image, patch], axis=-1))
        distances.append((source - patch) % 256)
    assert 0 not in distances
    # Replacements come from anywhere in the image.
    quarters = np.bincount(np.array(distances) // 64, minlength=4) / len(distances)
    np.testing.assert_allclose(quarters, 0.25, atol=0.1)


@pytest.mark.any_backend
def test_predictions_ignore_the_pixels_of_masked_patches():
    model = perturb(model_of(mask_probability=1, replace_probability=0))
    images = random_images(model)
    outputs = model(images)
    hidden = np.zeros((2, 24), bool)
    np.put_along_axis(hidden, array(outputs["patches"]), True, axis=1)
    pixels = np.kron(hidden.reshape(2, 4, 6), np.ones((4, 4)))[..., None].astype(bool)
    before = array(outputs["predictions"])
    changed = np.where(pixels, images + 1, images)
    np.testing.assert_array_equal(array(model(changed)["predictions"]), before)
    changed = np.where(pixels, images, images + 1)
    assert not np.allclose(array(model(changed)["predictions"]), before, atol=1e-3)


@pytest.mark.slow_elsewhere
def test_relative_positions():
    model = perturb(model_of(positions="relative"))
    assert np.all(np.isfinite(array(model(random_images(model))["predictions"])))


@pytest.mark.parametrize("probabilities", [(-0.1, 0.1), (0.8, 0.3), ("most", 0.1)])
def test_probabilities_out_of_range(probabilities):
    with pytest.raises(ValueError, match="a sum of at most 1"):
        model_of(0.5, *probabilities)


def test_too_many_channels():
    with pytest.raises(ValueError, match=r"6 channels have 8 \*\* 6.*MaskedAutoencoder"):
        model_of(input_shape=(16, 24, 6))


@pytest.mark.slow_elsewhere
def test_weights_have_names():
    paths = set(model_of().weights_by_path())
    own = paths - set(model_of().backbone.weights_by_path())
    assert own == {"corruption/mask_token", "prediction/kernel", "prediction/bias"}


def test_names_do_not_depend_on_where_it_is_made():
    with keras.name_scope("outer"):
        inside = list(model_of().weights_by_path())
    assert inside == list(model_of().weights_by_path())
