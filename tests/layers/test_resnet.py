"""Layers of the ResNet stem, compared with NumPy formulas at odd sizes and strides."""

import keras
import numpy as np
import pytest

from keras_vit.layers import BottleneckUnit, GroupNorm, ResNetStem, StandardizedConv2D
from keras_vit.layers.resnet import standardize
from tests.cases import (
    array,
    mostly_slow_elsewhere,
    output_and_gradients,
    perturb,
    random_array,
    weights_of,
)
from tests.formulas import below


def same_windows(x, size, strides, fill):
    """Return the windows of TensorFlow's SAME padding, `(b, h', w', size, size, c)`."""
    pads = []
    for side in x.shape[1:3]:
        total = max((-(-side // strides) - 1) * strides + size - side, 0)
        pads.append((total // 2, total - total // 2))
    x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(1, 2))
    return np.moveaxis(windows[:, ::strides, ::strides], 3, -1)


def standard_conv(x, kernel, strides=1):
    flat = kernel.reshape(-1, kernel.shape[-1])
    flat = (flat - flat.mean(0)) / (flat.std(0) + 1e-5)
    windows = same_windows(x, len(kernel), strides, fill=0.0)
    return windows.reshape(*windows.shape[:3], -1) @ flat


def group_norm(x, w, groups=32, epsilon=1e-6):
    grouped = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    mean = grouped.mean((1, 3), keepdims=True)
    deviation = np.sqrt(grouped.var((1, 3), keepdims=True) + epsilon)
    return ((grouped - mean) / deviation).reshape(x.shape) * w["gamma"] + w["beta"]


def relu(x):
    return np.maximum(x, 0.0)


def unit_formula(x, w, strides):
    y = relu(group_norm(standard_conv(x, w["conv_1/kernel"]), below(w, "norm_1/")))
    y = standard_conv(y, w["conv_2/kernel"], strides)
    y = relu(group_norm(y, below(w, "norm_2/")))
    y = group_norm(standard_conv(y, w["conv_3/kernel"]), below(w, "norm_3/"))
    if "projection/kernel" in w:
        x = standard_conv(x, w["projection/kernel"], strides)
        x = group_norm(x, below(w, "projection_norm/"))
    return relu(x + y)


@pytest.mark.parametrize("size", [(1, 1), (5, 8)])
@pytest.mark.parametrize(("kernel_size", "strides"), [(7, 2), (3, 1), (3, 2), (1, 2)])
def test_standardized_conv_formula(size, kernel_size, strides):
    x = random_array(2, *size, 3)
    conv = StandardizedConv2D(5, kernel_size, strides)
    conv.build(x.shape)
    expected = standard_conv(x, weights_of(perturb(conv))["kernel"], strides)
    np.testing.assert_allclose(array(conv(x)), expected, atol=1e-4)


def test_the_kernel_is_standardised_in_float32():
    # The filters are far from zero, so their differences vanish in half precision.
    kernel = 100.0 + random_array(3, 3, 4, 5)
    conv = StandardizedConv2D(5, 3, dtype="mixed_bfloat16")
    conv.build((None, 6, 6, 4))
    conv.kernel.assign(kernel)
    x = random_array(2, 6, 6, 4)
    outputs = conv(x)
    assert keras.backend.standardize_dtype(outputs.dtype) == "bfloat16"
    expected = standard_conv(x, kernel.astype("float64"))
    outputs = array(keras.ops.cast(outputs, "float32"))
    # The output sums 36 products of factors that are rounded to 8 bits.
    np.testing.assert_allclose(outputs, expected, atol=0.1)


def test_a_constant_filter_has_a_gradient():
    kernel = random_array(3, 3, 4, 2)
    kernel[..., 0] = 0.5
    output, (gradient,) = output_and_gradients(
        standardize, [kernel], random_array(3, 3, 4, 2, seed=1)
    )
    np.testing.assert_array_equal(output[..., 0], 0.0)
    assert np.all(np.isfinite(gradient))
    assert np.all(np.any(gradient, axis=(0, 1, 2)))


@pytest.mark.parametrize(
    ("channels", "groups"), mostly_slow_elsewhere([(32, 32), (96, 32), (12, 3)], (12, 3))
)
def test_group_norm_formula(channels, groups):
    x = random_array(2, 5, 4, channels)
    norm = GroupNorm(groups)
    norm.build(x.shape)
    expected = group_norm(x, weights_of(perturb(norm)), groups)
    np.testing.assert_allclose(array(norm(x)), expected, atol=1e-5)


@pytest.mark.slow_elsewhere
def test_group_norm_equals_keras():
    x = random_array(2, 5, 4, 64)
    ours, theirs = GroupNorm(), keras.layers.GroupNormalization(epsilon=1e-6)
    theirs.build(x.shape)
    ours.build(x.shape)
    theirs.set_weights(perturb(ours).get_weights())
    np.testing.assert_allclose(array(ours(x)), array(theirs(x)), atol=1e-5)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_group_norm_statistics_in_float32(dtype):
    # The square of 1000 overflows float16, and bfloat16 cannot represent 1003.
    half = dtype.removeprefix("mixed_")
    x = keras.ops.cast(1000.0 + 200 * random_array(2, 5, 4, 64), half)
    norm = GroupNorm(dtype=dtype)
    norm.build(x.shape)
    exact = array(keras.ops.cast(x, "float32")).astype("float64")
    expected = group_norm(exact, weights_of(perturb(norm)))
    outputs = norm(x)
    assert keras.backend.standardize_dtype(outputs.dtype) == half
    outputs = array(keras.ops.cast(outputs, "float32"))
    np.testing.assert_allclose(outputs, expected, atol=0.02)


def test_group_norm_of_a_nearly_constant_map():
    """Check that rounding does not make the variance negative."""
    x = 100.0 + 1e-3 * random_array(2, 16, 16, 64)
    outputs = array(GroupNorm()(x))
    # The standard deviation, 1e-3, is the square root of epsilon; near 100, float32 has
    # a spacing of 8e-6.
    expected = group_norm(x.astype("float64"), {"gamma": 1.0, "beta": 0.0})
    np.testing.assert_allclose(outputs, expected, atol=0.1)


@pytest.mark.any_backend
@pytest.mark.parametrize(("channels", "strides"), [(128, 1), (64, 1), (128, 2), (3, 2)])
def test_bottleneck_unit_formula(channels, strides):
    x = random_array(2, 5, 8, channels)
    unit = BottleneckUnit(32, strides)
    unit.build(x.shape)
    expected = unit_formula(x, weights_of(perturb(unit)), strides)
    np.testing.assert_allclose(array(unit(x)), expected, atol=1e-4)


@pytest.mark.slow_elsewhere
def test_a_fresh_unit_is_its_shortcut():
    x = random_array(2, 5, 4, 128)
    np.testing.assert_allclose(array(BottleneckUnit(32)(x)), relu(x), atol=1e-6)


@pytest.mark.parametrize(
    ("size", "num_blocks"),
    mostly_slow_elsewhere(
        [((37, 22), (1, 2)), ((37, 22), ()), ((32, 48), ())], ((37, 22), ())
    ),
)
def test_stem_formula(size, num_blocks):
    images = random_array(2, *size, 3)
    stem = ResNetStem(num_blocks, width=32)
    stem.build(images.shape)
    w = weights_of(perturb(stem))
    x = standard_conv(images, w["root/kernel"], strides=2)
    x = relu(group_norm(x, below(w, "root_norm/")))
    x = same_windows(x, 3, 2, fill=-np.inf).max(axis=(3, 4))
    for stage, units in enumerate(num_blocks):
        for unit in range(units):
            strides = 2 if stage and not unit else 1
            x = unit_formula(x, below(w, f"stage_{stage}/unit_{unit}/"), strides)
    assert stem.compute_output_shape(images.shape) == x.shape
    np.testing.assert_allclose(array(stem(images)), x, atol=1e-4)


def test_epsilons_of_timm():
    """Check the small numbers in timm's hybrids, with filters and maps near constant."""
    kernel = 1e-4 * random_array(1, 1, 4, 5)
    flat = kernel.reshape(4, 5)
    expected = (flat - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-8)
    outputs = array(standardize(kernel, "timm")).reshape(4, 5)
    np.testing.assert_allclose(outputs, expected, rtol=1e-3)
    stem = ResNetStem((1,), width=32, epsilons="timm")
    unit = stem.stages[0][0]
    assert stem.root.epsilons == unit.epsilons == "timm"
    unit.build((2, 4, 4, 32))
    assert stem.root_norm.epsilon == unit.norm_1.epsilon == 1e-5
    assert unit.conv_2.epsilons == "timm"


def test_images_of_unknown_size():
    images = keras.Input((None, 64, 3))
    assert ResNetStem((1, 1), width=32)(images).shape == (None, None, 8, 256)


@pytest.mark.any_backend
@pytest.mark.parametrize("dtype", ["bfloat16", "mixed_float16"])
def test_half_precision(dtype):
    images = random_array(2, 16, 24, 3)
    stem = ResNetStem((1,), width=32)
    stem.build(images.shape)
    perturb(stem)
    half = ResNetStem((1,), width=32, dtype=dtype)
    half.build(images.shape)
    half.set_weights(stem.get_weights())
    outputs = half(images)
    name = keras.backend.standardize_dtype(outputs.dtype)
    assert name == dtype.removeprefix("mixed_")
    exact, outputs = array(stem(images)), array(keras.ops.cast(outputs, "float32"))
    error = np.sqrt(np.mean((outputs - exact) ** 2) / np.mean(exact**2))
    assert error < (0.05 if name == "bfloat16" else 0.01)


@pytest.mark.parametrize("width", [0, 16, 48, 64.0])
@pytest.mark.parametrize("layer", [BottleneckUnit, ResNetStem])
def test_a_width_that_the_groups_do_not_divide(layer, width):
    with pytest.raises(ValueError, match=rf"multiple of 32.*received {width}"):
        layer(width=width)


@pytest.mark.parametrize("num_blocks", [3, (3, 0), (2.0,), "34"])
def test_num_blocks_that_are_no_ints(num_blocks):
    with pytest.raises(ValueError, match="num_blocks must hold a positive int for each"):
        ResNetStem(num_blocks)
