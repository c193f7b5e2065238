import keras
import numpy as np
import pytest

from keras_vit.layers import Patches, PatchesToImage
from tests.cases import array, random_array


@pytest.mark.parametrize("shape", [(16, 16, 3), (8, 24, 1), (24, 8, 4)])
def test_patches_equal_slices_of_the_image(shape):
    images = random_array(2, *shape)
    patches = array(Patches(8)(images))
    expected = [
        images[:, y : y + 8, x : x + 8].reshape(2, -1)
        for y in range(0, shape[0], 8)
        for x in range(0, shape[1], 8)
    ]
    np.testing.assert_array_equal(patches, np.stack(expected, axis=1))


@pytest.mark.parametrize("shape", [(16, 16, 3), (8, 24, 1)])
def test_patches_and_dense_equal_a_strided_convolution(shape):
    images = random_array(2, *shape)
    kernel = random_array(8, 8, shape[-1], 5, seed=1)
    patches = array(Patches(8)(images))
    convolved = array(keras.ops.conv(images, kernel, strides=8, padding="valid"))
    dense = patches @ kernel.reshape(-1, 5)
    np.testing.assert_allclose(dense, convolved.reshape(2, -1, 5), atol=1e-4)


@pytest.mark.parametrize("shape", [(16, 16, 3), (8, 24, 1)])
def test_patches_to_image_is_the_inverse(shape):
    images = random_array(2, *shape)
    back = PatchesToImage(4, (shape[0] // 4, shape[1] // 4))(Patches(4)(images))
    np.testing.assert_array_equal(array(back), images)


def test_no_images_give_no_patches():
    assert tuple(Patches(8)(random_array(0, 16, 16, 3)).shape) == (0, 4, 192)


def test_a_patch_that_does_not_divide_names_the_nearest_size():
    with pytest.raises(ValueError, match=r"30x32 pixels.*16x16.*Resize to 32x32"):
        Patches(16)(random_array(1, 30, 32, 3))


def test_images_of_the_wrong_rank():
    with pytest.raises(ValueError, match=r"\(batch, height, width, channels\)"):
        Patches(8)(random_array(16, 16, 3))


@pytest.mark.parametrize("patch_size", [0, -1, 2.0, "16"])
def test_a_patch_size_that_is_no_positive_int(patch_size):
    with pytest.raises(ValueError, match="patch_size must be a positive int"):
        Patches(patch_size)(random_array(1, 16, 16, 3))


def test_patches_that_do_not_fill_the_grid():
    with pytest.raises(ValueError, match=r"needs patches of shape \(batch, 6,"):
        PatchesToImage(2, (2, 3))(random_array(1, 5, 12))
