import keras
import numpy as np
import pytest

import keras_vit
from tests import formulas
from tests.cases import array, perturb, random_array, tiny_vit, weights_of

SimpleFeaturePyramid = keras_vit.layers.SimpleFeaturePyramid


def deconvolution(x, weights, name):
    """Return a 2x2 deconvolution with stride 2, which has no overlaps."""
    b, h, w, _ = x.shape
    kernel = weights[f"{name}/kernel"]  # (2, 2, out, in)
    out = np.einsum("bhwi,yxoi->bhywxo", x, kernel)
    return out.reshape(b, 2 * h, 2 * w, -1) + weights[f"{name}/bias"]


def convolution(x, weights, name):
    """Return a convolution with zeros around the map, followed by its norm."""
    kernel = weights[f"{name}/kernel"]
    margin = len(kernel) // 2
    _, h, w, _ = x.shape
    padded = np.pad(x, ((0, 0), (margin,) * 2, (margin,) * 2, (0, 0)))
    out = sum(
        padded[:, i : i + h, j : j + w] @ kernel[i, j]
        for i in range(len(kernel))
        for j in range(len(kernel))
    )
    return norm(out, weights, f"{name}_norm")


def norm(x, weights, name):
    return formulas.layer_norm(x, weights[f"{name}/gamma"], weights[f"{name}/beta"])


@pytest.mark.slow_elsewhere
def test_the_pyramid_is_that_of_vitdet():
    pyramid = SimpleFeaturePyramid(filters=6)
    grid = random_array(2, 2, 4, 16)
    pyramid.build(grid.shape)
    perturb(pyramid)
    w, x = weights_of(pyramid), grid.astype("float64")
    finer = norm(deconvolution(x, w, "stride_4_deconvolution_0"), w, "stride_4_norm_1")
    starts = {
        4: deconvolution(formulas.gelu_exact(finer), w, "stride_4_deconvolution_1"),
        8: deconvolution(x, w, "stride_8_deconvolution_0"),
        16: x,
        32: x.reshape(2, 1, 2, 2, 2, 16).max(axis=(2, 4)),
    }
    for found, (stride, start) in zip(pyramid(grid), starts.items(), strict=True):
        lateral = convolution(start, w, f"stride_{stride}_lateral")
        expected = convolution(lateral, w, f"stride_{stride}_output")
        assert expected.shape == (2, 32 // stride, 64 // stride, 6)
        np.testing.assert_allclose(array(found), expected, rtol=0, atol=1e-5)


@pytest.mark.any_backend
def test_the_pyramid_trains_on_the_features_of_a_model(tmp_path):
    model = tiny_vit()
    grid = model.feature_model().outputs[0]
    levels = SimpleFeaturePyramid(filters=4, patch_size=8)(grid)
    detector = keras.Model(model.input, levels)
    assert [x.shape[1:] for x in levels] == [
        (4, 6, 4),
        (2, 3, 4),
        (1, 2, 4),  # Odd sides are rounded up.
        (1, 1, 4),
    ]
    images = random_array(2, 16, 24, 3)
    pixels = keras.Model(grid, levels)
    pixels.save(tmp_path / "pyramid.keras")
    restored = keras.models.load_model(tmp_path / "pyramid.keras")
    (maps,) = model.features(images)
    for one, other in zip(detector(images), restored(maps), strict=True):
        np.testing.assert_allclose(array(one), array(other), atol=1e-5)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_size": 14}, r"stride of 4 .* patch_size=14 .* such as \(7, 14, 28\)"),
        ({"strides": (4, 24)}, "stride of 24"),
        ({"strides": (0,)}, "stride of 0"),
        ({"patch_size": None}, "patch_size=None"),
    ],
)
def test_strides_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        SimpleFeaturePyramid(**arguments)


@pytest.mark.any_backend
def test_patches_of_14_pixels_have_a_pyramid_of_their_own():
    pyramid = SimpleFeaturePyramid(filters=3, patch_size=14, strides=(7, 14, 28))
    assert pyramid.compute_output_shape((None, 5, 4, 8)) == [
        (None, 10, 8, 3),
        (None, 5, 4, 3),
        (None, 3, 2, 3),
    ]
    with pytest.raises(ValueError, match="multiple of 2"):
        pyramid.build((None, 4, 4, 9))
