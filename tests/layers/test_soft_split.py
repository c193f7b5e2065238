import keras
import numpy as np
import pytest

from keras_vit.layers import SoftSplit
from tests.cases import array, output_and_gradients, random_array
from tests.formulas import unfold

# Kernel size, stride, padding, image: T2T-ViT's values, then unusual combinations.
CASES = [
    (7, 4, 2, (16, 24, 3)),
    (3, 2, 1, (8, 6, 5)),
    (3, 2, 1, (7, 10, 2)),
    (5, 3, 0, (11, 14, 2)),
    (7, 3, 4, (9, 6, 1)),
    (3, 1, 1, (5, 4, 2)),
    (1, 1, 0, (3, 4, 2)),
    (1, 3, 0, (7, 8, 2)),
    (2, 5, 3, (6, 9, 1)),
    (4, 4, 0, (8, 12, 3)),
]


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("kernel_size", "stride", "padding", "shape"),
    [
        CASES[0],
        *(pytest.param(*case, marks=pytest.mark.any_backend) for case in CASES[1:]),
    ],
)
def test_unfold_and_its_gradient_fold(kernel_size, stride, padding, shape):
    sizes = (kernel_size, stride, padding)
    layer = SoftSplit(*sizes)
    images = random_array(2, *shape)
    expected = unfold(images, *sizes)
    upstream = random_array(*expected.shape, seed=1)
    patches, (gradient,) = output_and_gradients(layer, [images], upstream)
    np.testing.assert_array_equal(patches, expected)
    assert tuple(layer.compute_output_shape(images.shape)) == expected.shape

    # The gradient of a pixel is the sum over its places in patches.
    pixels = np.arange(1, images[:1].size + 1, dtype="float64").reshape(1, *shape)
    places = unfold(pixels, *sizes)[0].astype(int)  # Padding is 0.
    for image in range(2):
        sums = np.bincount(places.ravel(), upstream[image].ravel(), pixels.size + 1)
        np.testing.assert_allclose(gradient[image].ravel(), sums[1:], rtol=0, atol=1e-5)


def test_with_a_dense_layer_it_is_a_convolution():
    images = random_array(2, 16, 24, 3)
    kernel = random_array(7, 7, 3, 5, seed=1)
    convolved = keras.ops.conv(
        np.pad(images, [(0, 0), (2, 2), (2, 2), (0, 0)]), kernel, strides=4
    )
    patches = array(SoftSplit(7, 4, 2)(images))
    np.testing.assert_allclose(
        (patches @ kernel.reshape(147, 5)).reshape(convolved.shape),
        array(convolved),
        rtol=0,
        atol=1e-4,
    )


def test_any_batch_under_a_graph():
    inputs = keras.Input((8, 12, 2))
    model = keras.Model(inputs, SoftSplit(3, 2, 1)(inputs))
    images = random_array(3, 8, 12, 2)
    assert model.output_shape == (None, 24, 18)
    assert model.predict(images, verbose=0).shape == (3, 24, 18)


@pytest.mark.parametrize(
    ("arguments", "shape", "message"),
    [
        ({"kernel_size": 0, "stride": 1}, None, "kernel_size must be an int, 1 or more"),
        ({"kernel_size": 3, "stride": 0}, None, "stride must be an int, 1 or more"),
        ({"kernel_size": 3, "stride": 1, "padding": -1}, None, "padding must be an int"),
        ({"kernel_size": 7, "stride": 4}, (1, 6, 8, 3), "both sides must be 7 or more"),
        ({"kernel_size": 7, "stride": 4}, (1, None, 8, 3), "all but the batch known"),
    ],
)
def test_errors(arguments, shape, message):
    with pytest.raises(ValueError, match=message):
        SoftSplit(**arguments).build(shape)
