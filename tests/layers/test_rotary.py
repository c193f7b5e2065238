"""Rotary positions, compared with rotations in the complex plane."""

import math

import keras
import numpy as np
import pytest

from keras_vit.layers import MixedRotaryPositions, RotaryPositions, SelfAttention
from tests.cases import array, perturb, random_array, weights_of
from tests.formulas import attention

GRID, PREFIX = (2, 3), 1


def turned(x, angle, layout):
    """Rotate one query or key by the angle of each pair of entries."""
    half = len(x) // 2
    if layout == "half":
        real, imaginary = x[:half], x[half:]
    else:
        real, imaginary = x[::2], x[1::2]
    turned = (real + 1j * imaginary) * np.exp(1j * angle)
    out = np.empty_like(x)
    if layout == "half":
        out[:half], out[half:] = turned.real, turned.imag
    else:
        out[::2], out[1::2] = turned.real, turned.imag
    return out


def expected(x, angle_of, layout):
    out = x.astype("float64")
    for token in range(PREFIX, x.shape[1]):
        row, column = divmod(token - PREFIX, GRID[1])
        for image in range(len(x)):
            for head in range(x.shape[2]):
                angle = angle_of(row, column, head)
                out[image, token, head] = turned(out[image, token, head], angle, layout)
    return out


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({}, lambda i, size, reference: 2 * math.pi * ((2 * i + 1) / size - 1)),
        ({"coordinates": "index", "offset": 1.0}, lambda i, size, reference: i + 1),
        (
            {"coordinates": "index", "reference_grid_shape": (5, 7)},
            lambda i, size, reference: i / size * reference,
        ),
    ],
)
def test_formula(options, place, layout):
    axes = "xy" if layout == "half" else "yx"
    x = random_array(2, 7, 2, 8)
    layer = RotaryPositions(GRID, PREFIX, 50.0, axes=axes, layout=layout, **options)
    frequency = 50.0 ** -np.array([0, 0.5])

    def angle(row, column, head):
        y, x = place(row, 2, 5), place(column, 3, 7)
        return np.outer([x, y] if axes == "xy" else [y, x], frequency).reshape(-1)

    found = array(layer(x))
    np.testing.assert_allclose(found, expected(x, angle, layout), atol=1e-5)
    assert layer.weights == []
    np.testing.assert_array_equal(found[:, 0], x[:, 0])


def test_mixed_formula():
    x = random_array(2, 7, 2, 8)
    layer = MixedRotaryPositions(GRID, PREFIX)
    layer.build(x.shape)
    along_x, along_y = weights_of(perturb(layer))["frequencies"]

    def angle(row, column, head):
        return column * along_x[head] + row * along_y[head]

    found = array(layer(x))
    np.testing.assert_allclose(found, expected(x, angle, "interleaved"), atol=1e-5)


def test_initial_mixed_frequencies_are_orthogonal_pairs():
    layer = MixedRotaryPositions(GRID, temperature=10.0)
    layer.build((None, 6, 4, 16))
    x, y = weights_of(layer)["frequencies"]
    magnitude = 10.0 ** -(np.arange(4) / 4)
    np.testing.assert_allclose(np.hypot(x, y), np.tile(magnitude, (4, 2)), rtol=1e-5)
    np.testing.assert_allclose(
        (x * np.roll(x, 4, 1) + y * np.roll(y, 4, 1)), 0, atol=1e-6
    )


def test_attention_rotates_queries_and_keys():
    tokens = random_array(2, 7, 16)
    layer = SelfAttention(2, positions=RotaryPositions(GRID))
    layer.build(tokens.shape)
    w = weights_of(perturb(layer))
    rotated = RotaryPositions(GRID, PREFIX)

    def rotate(x):
        return array(rotated(x.reshape(2, 7, 2, 8))).reshape(2, 7, 16)

    np.testing.assert_allclose(
        array(layer(tokens)), attention(tokens, w, 2, rotate=rotate), atol=1e-5
    )


def test_products_depend_on_the_offset_only():
    layer = RotaryPositions((4, 4), coordinates="index")
    x = np.broadcast_to(random_array(1, 1, 1, 8), (1, 16, 1, 8))
    rotated = array(layer(x))[0, :, 0].reshape(4, 4, 8)
    np.testing.assert_allclose(
        rotated[0, 1] @ rotated[2, 0], rotated[1, 3] @ rotated[3, 2], rtol=1e-4
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_angles_are_exact_in_low_precision(dtype):
    layer = RotaryPositions((1, 1000), coordinates="index", dtype=f"mixed_{dtype}")
    x = random_array(1, 1000, 1, 8)
    exact = array(RotaryPositions((1, 1000), coordinates="index")(x))
    found = layer(keras.ops.cast(x, dtype))
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    np.testing.assert_allclose(
        array(keras.ops.cast(found, "float32")), exact, rtol=0, atol=0.03
    )


def test_mixed_angles_are_exact_in_low_precision():
    layers = [
        MixedRotaryPositions((1, 1000), dtype=dtype)
        for dtype in ("float32", "mixed_bfloat16")
    ]
    x = random_array(1, 1000, 1, 8)
    for layer in layers:
        layer.build(x.shape)
        layer.set_weights(layers[0].get_weights())
    exact = array(layers[0](x))
    found = layers[1](keras.ops.cast(x, "bfloat16"))
    np.testing.assert_allclose(
        array(keras.ops.cast(found, "float32")), exact, rtol=0, atol=0.03
    )


@pytest.mark.any_backend
def test_bad_arguments():
    with pytest.raises(ValueError, match="divisible by 4; received 6"):
        RotaryPositions(GRID)(random_array(1, 6, 1, 6))
    with pytest.raises(ValueError, match="grid_shape"):
        RotaryPositions()(random_array(1, 6, 1, 8))
    with pytest.raises(ValueError, match="coordinates='index'"):
        RotaryPositions(GRID, reference_grid_shape=(2, 2))
    with pytest.raises(ValueError, match=r"Unknown layout 'halves'.*'interleaved'"):
        RotaryPositions(GRID, layout="halves")
