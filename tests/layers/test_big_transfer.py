"""Unit of Big Transfer, compared with NumPy formulas at odd sizes and strides."""

import numpy as np
import pytest

from keras_vit.layers import PreActivationUnit, StandardizedConv2D
from keras_vit.layers.big_transfer import ZeroPaddedMaxPool
from tests.cases import array, mostly_slow_elsewhere, perturb, random_array, weights_of
from tests.formulas import below
from tests.layers.test_resnet import group_norm, relu


def windows(x, size, strides, padding):
    """Return the windows of an image with zeros around it: `(b, h', w', k, k, c)`."""
    x = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    found = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return np.moveaxis(found[:, ::strides, ::strides], 3, -1)


def standard_conv(x, kernel, strides=1):
    flat = kernel.reshape(-1, kernel.shape[-1])
    flat = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-10)
    found = windows(x, len(kernel), strides, len(kernel) // 2)
    return found.reshape(*found.shape[:3], -1) @ flat


@pytest.mark.parametrize("size", [(1, 1), (6, 9)])
@pytest.mark.parametrize(
    ("kernel_size", "strides"), mostly_slow_elsewhere([(7, 2), (3, 1), (1, 2)], (7, 2))
)
def test_symmetric_padding(size, kernel_size, strides):
    x = random_array(2, *size, 3)
    conv = StandardizedConv2D(5, kernel_size, strides, "bit", padding="symmetric")
    conv.build(x.shape)
    kernel = weights_of(perturb(conv))["kernel"]
    expected = standard_conv(x, kernel, strides)
    assert conv.compute_output_shape(x.shape) == expected.shape
    np.testing.assert_allclose(array(conv(x)), expected, atol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (6, 9)])
def test_zeros_around_the_map_are_in_the_maximum(size):
    x = -1.0 - np.abs(random_array(2, *size, 3))
    expected = windows(x, 3, 2, 1).max(axis=(3, 4))
    assert expected.max() == 0.0
    pool = ZeroPaddedMaxPool()
    assert pool.compute_output_shape(x.shape) == expected.shape
    np.testing.assert_allclose(array(pool(x)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "strides"),
    mostly_slow_elsewhere([(32, 1), (8, 1), (32, 2), (16, 2)], (16, 2)),
)
def test_unit_formula(channels, strides):
    x = random_array(2, 5, 8, channels)
    unit = PreActivationUnit(32, strides, groups=4)
    unit.build(x.shape)
    w = weights_of(perturb(unit))

    def activated(x, norm):
        return relu(group_norm(x, below(w, f"{norm}/"), groups=4, epsilon=1e-5))

    y = activated(x, "norm_1")
    shortcut = x
    if (channels, strides) != (32, 1):
        shortcut = standard_conv(y, w["projection/kernel"], strides)
    y = activated(standard_conv(y, w["conv_1/kernel"]), "norm_2")
    y = activated(standard_conv(y, w["conv_2/kernel"], strides), "norm_3")
    expected = shortcut + standard_conv(y, w["conv_3/kernel"])
    assert unit.compute_output_shape(x.shape) == expected.shape
    np.testing.assert_allclose(array(unit(x)), expected, atol=2e-4)
