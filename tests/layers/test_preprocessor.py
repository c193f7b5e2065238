import keras
import numpy as np
import pytest

from keras_vit.layers import Preprocessor
from tests.cases import array, perturb, tiny_t2t, tiny_vit

RESIZES = ["bilinear", "bilinear_antialias", "bicubic_antialias"]
MEAN, STD = [123.7, 116.3, 103.5], [58.4, 57.1, 57.4]


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32", "float64"])
@pytest.mark.parametrize("shape", [(4, 5, 3), (2, 4, 5, 3)])
def test_formula(dtype, shape):
    images = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    scaled = Preprocessor()(images)
    assert keras.backend.standardize_dtype(scaled.dtype) == "float32"
    np.testing.assert_allclose(array(scaled), (images - 127.5) / 127.5, atol=1e-6)
    scaled = array(Preprocessor(MEAN, STD)(images))
    np.testing.assert_allclose(scaled, (images - np.array(MEAN)) / STD, atol=1e-6)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_same_pixels_inside_tf_data_and_under_every_policy(tensorflow, policy):
    images = np.random.default_rng(0).integers(0, 256, (4, 4, 5, 3)).astype("uint8")
    keras.config.set_dtype_policy(policy)
    try:
        preprocessor = Preprocessor(MEAN, STD)
        data = tensorflow.data.Dataset.from_tensor_slices(images).map(preprocessor)
        piped = np.stack([image.numpy() for image in data])
        called = array(preprocessor(images))
    finally:
        keras.config.set_dtype_policy("float32")
    assert piped.dtype == called.dtype == "float32"
    np.testing.assert_allclose(piped, called, atol=1e-6)


def test_survives_its_config():
    preprocessor = Preprocessor(MEAN, 50.0)
    config = keras.saving.serialize_keras_object(preprocessor)
    revived = keras.saving.deserialize_keras_object(config)
    assert revived.get_config() == preprocessor.get_config()
    assert (revived.mean, revived.std) == (MEAN, 50.0)


def photograph(height, width, seed=0):
    """Return a smooth, noisy image with pixels from 30 to 225.

    Without hard edges or extreme values, bicubic resizing stays within 0 to 255.
    """
    rows, columns = np.arange(height)[:, None, None], np.arange(width)[:, None]
    waves = np.sin(rows / 17 + [0, 1, 2]) + np.cos(columns / 23 + rows / 40)
    noise = np.random.default_rng(seed).uniform(-20, 20, (height, width, 3))
    return np.clip(127.5 + 35 * waves + noise, 30, 225).astype("uint8")


def test_central_fraction():
    size = {"image_size": (8, 8)}
    assert Preprocessor(**size).central_fraction == 0
    assert Preprocessor(**size, crop_fraction=0.9).central_fraction == 0.9
    assert Preprocessor(**size, crop_to_aspect_ratio=True).central_fraction == 1


CONVENTIONS = {
    "google": {"image_size": (24, 32)},
    "transformers": {"image_size": (24, 32), "resize": "bilinear_antialias"},
    "timm": {
        "image_size": (24, 24),
        "resize": "bicubic_antialias",
        "crop_fraction": 0.9,
    },
    "rectangular": {
        "image_size": (24, 40),
        "resize": "bicubic_antialias",
        "crop_fraction": 0.875,
    },
    "dinov2": {
        "image_size": (24, 24),
        "resize": "bicubic_antialias",
        "crop_fraction": 24 / 37,
        "crop_rounding": "floor",
    },
    "keras_hub": {"image_size": (24, 31), "crop_to_aspect_ratio": True},
}


@pytest.mark.parametrize(
    "convention",
    [
        "rectangular",
        *(
            pytest.param(name, marks=pytest.mark.any_backend)
            for name in CONVENTIONS
            if name != "rectangular"
        ),
    ],
)
def test_same_pixels_inside_tf_data_of_unknown_sizes(convention, tensorflow):
    preprocessor = Preprocessor(MEAN, STD, **CONVENTIONS[convention])
    images = [photograph(*size) for size in [(37, 50), (50, 31), (1, 1), (24, 32)]]
    spec = tensorflow.TensorSpec((None, None, 3), "uint8")
    data = tensorflow.data.Dataset.from_generator(
        lambda: iter(images), output_signature=spec
    )
    data = data.map(preprocessor)
    shape = (*preprocessor.image_size, 3)
    assert data.element_spec == tensorflow.TensorSpec(shape, "float32")
    for image, piped in zip(images, data, strict=True):
        np.testing.assert_allclose(piped, array(preprocessor(image)), rtol=0, atol=2e-4)
    batches = data.batch(2).map(lambda x: x * STD + MEAN).map(preprocessor)
    assert batches.element_spec == tensorflow.TensorSpec((None, *shape), "float32")


@pytest.mark.any_backend
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_batch_is_its_images(convention):
    preprocessor = Preprocessor(MEAN, STD, **CONVENTIONS[convention])
    images = np.stack([photograph(37, 50, seed) for seed in range(3)])
    batch = array(preprocessor(images))
    assert batch.shape == preprocessor.compute_output_shape(images.shape)
    assert keras.backend.standardize_dtype(batch.dtype) == "float32"
    each = np.stack([array(preprocessor(image)) for image in images])
    np.testing.assert_allclose(batch, each, rtol=0, atol=1e-5)
    empty = array(preprocessor(images[:0]))
    assert empty.shape == (0, *batch.shape[1:])
    for dtype in ("int32", "float32", "float64"):
        np.testing.assert_array_equal(array(preprocessor(images.astype(dtype))), batch)


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize(
    "crop", [{}, {"crop_fraction": 1.0}, {"crop_to_aspect_ratio": True}]
)
def test_images_of_the_size_pass_through(resize, crop, tensorflow):
    images = np.random.default_rng(0).integers(0, 256, (2, 24, 31, 3)).astype("uint8")
    scaled = array(Preprocessor(MEAN, STD)(images))
    preprocessor = Preprocessor(MEAN, STD, (24, 31), resize, **crop)
    np.testing.assert_array_equal(array(preprocessor(images)), scaled)
    spec = tensorflow.TensorSpec((None, None, None, 3), "uint8")
    data = tensorflow.data.Dataset.from_generator(
        lambda: iter([images]), output_signature=spec
    )
    (piped,) = data.map(preprocessor)
    np.testing.assert_allclose(piped, scaled, rtol=0, atol=1e-6)


@pytest.mark.slow_elsewhere
def test_a_functional_model_of_images_of_any_size():
    inputs = keras.Input((None, None, 3), dtype="uint8")
    preprocessor = Preprocessor.imagenet((24, 32))
    outputs = preprocessor(inputs)
    assert outputs.shape == (None, 24, 32, 3)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(outputs))
    images = photograph(37, 50)[None]
    expected = array(preprocessor(images)).mean((1, 2))
    np.testing.assert_allclose(model.predict(images, verbose=0), expected, atol=1e-5)


def test_imagenet():
    image = np.zeros((30, 30, 3), "uint8")
    image[...] = [124, 0, 255]
    pixels = array(Preprocessor.imagenet((8, 8))(image))
    expected = (image[0, 0] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(pixels, np.tile(expected, (8, 8, 1)), atol=1e-5)


@pytest.mark.parametrize(
    "crop",
    [{"crop_fraction": 0.9}, {"crop_fraction": None, "crop_to_aspect_ratio": True}],
)
def test_with_image_size(crop):
    preprocessor = Preprocessor.imagenet((8, 8), name="given", **crop)
    larger = preprocessor.with_image_size((16, 24))
    assert larger.get_config() == {**preprocessor.get_config(), "image_size": (16, 24)}
    scaling = preprocessor.with_image_size(None)
    assert scaling.get_config() == {
        **Preprocessor(preprocessor.mean, preprocessor.std).get_config(),
        "name": "given",
    }


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize(
    ("channels", "mean"), [(1, [2.0]), (2, [1.0, 2.0]), (5, [1.0, 2.0, 3.0, 1.0, 2.0])]
)
def test_with_channels(channels, mean):
    preprocessor = Preprocessor([1.0, 2.0, 3.0], 50.0, image_size=(8, 8))
    adapted = preprocessor.with_channels(channels)
    assert adapted.get_config() == {**preprocessor.get_config(), "mean": mean}
    images = np.full((4, 4, channels), 7, "uint8")
    expected = np.tile((7 - np.array(mean)) / 50, (8, 8, 1))
    np.testing.assert_allclose(array(adapted(images)), expected, atol=1e-6)
    assert preprocessor.with_channels(3).get_config() == preprocessor.get_config()


@pytest.mark.any_backend
@pytest.mark.parametrize("channels", [0, 2.5, None])
def test_with_channels_that_are_no_number(channels):
    with pytest.raises(ValueError, match="channels must be a positive int"):
        Preprocessor().with_channels(channels)


@pytest.mark.any_backend
def test_a_config_from_before_there_were_sizes():
    config = Preprocessor(MEAN, STD).get_config()
    for key in ("image_size", "resize", "crop_fraction", "crop_to_aspect_ratio"):
        del config[key]
    del config["crop_rounding"]
    assert Preprocessor.from_config(config).get_config() == {
        **config,
        "image_size": None,
        "resize": "bilinear",
        "crop_fraction": None,
        "crop_to_aspect_ratio": False,
        "crop_rounding": "nearest",
    }


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 224}, r"image_size must be None or \(height, width\).*224"),
        ({"image_size": (224,)}, r"two positive ints; received \(224,\)"),
        ({"image_size": (224, 0)}, r"two positive ints; received \(224, 0\)"),
        ({"image_size": (8, 8), "resize": "bicubic"}, "'bicubic'.*'bicubic_antialias'"),
        ({"image_size": (8, 8), "crop_fraction": 0.0}, r"above 0 and at most 1.*0\.0"),
        ({"image_size": (8, 8), "crop_fraction": 87.5}, r"at most 1; received 87\.5"),
        ({"resize": "bilinear_antialias"}, "received image_size=None. Give image_size"),
        ({"crop_fraction": 0.9}, r"crop_fraction=0\.9.*received image_size=None"),
        ({"crop_to_aspect_ratio": True}, r"ratio=True.*received image_size=None"),
        (
            {"image_size": (8, 8), "crop_fraction": 1.0, "crop_to_aspect_ratio": True},
            r"without a crop_fraction; received True with crop_fraction=1\.0",
        ),
        ({"image_size": (8, 8), "crop_to_aspect_ratio": 1}, "must be False.*received 1"),
        ({"crop_rounding": "up"}, "crop_rounding 'up'.*'nearest', 'floor'"),
        ({"image_size": (8, 8), "crop_rounding": "floor"}, "needs a crop_fraction"),
    ],
)
def test_bad_argument(arguments, message):
    with pytest.raises(ValueError, match=message):
        Preprocessor(**arguments)


def test_images_of_unknown_rank(tensorflow):
    data = tensorflow.data.Dataset.from_generator(
        lambda: iter([np.zeros((4, 5, 3))]), output_types="float32"
    )
    with pytest.raises(ValueError, match=r"unknown rank.*expand_animations=False"):
        data.map(Preprocessor(image_size=(8, 8)))


@pytest.mark.any_backend
def test_wrong_rank():
    with pytest.raises(ValueError, match=r"received \(4, 5\).*images\[\.\.\., None\]"):
        Preprocessor()(np.zeros((4, 5)))


@pytest.mark.parametrize("dtype", [bool, complex])
def test_wrong_dtype(dtype):
    with pytest.raises(ValueError, match=r"pixel values 0 to 255.*received dtype"):
        Preprocessor()(np.zeros((4, 5, 3), dtype))


@pytest.mark.any_backend
def test_wrong_channels():
    with pytest.raises(ValueError, match=r"3 channels; received.*\(4, 5, 1\)"):
        Preprocessor(MEAN, STD)(np.zeros((4, 5, 1)))


@pytest.mark.parametrize(
    ("preprocessor", "remedy"),
    [
        (Preprocessor(), r"with_channels\(9\)"),
        (Preprocessor([2.0], [3.0]), "images"),
        (Preprocessor(MEAN, STD), r"np\.repeat\(images\[\.\.\., None\], 3, axis=-1\)"),
    ],
)
def test_a_batch_of_grey_images_without_channels(preprocessor, remedy, tensorflow):
    images = np.arange(8 * 9 * 9, dtype="float32").reshape(8, 9, 9)
    data = tensorflow.data.Dataset.from_tensors(images)
    for apply in (preprocessor, lambda _: data.map(preprocessor)):
        with pytest.raises(ValueError, match=rf"\(8, 9, 9\).*gray.*{remedy}"):
            apply(images)
    grey = images[..., None]
    grey = grey if np.size(preprocessor.mean) == 1 else np.repeat(grey, 3, axis=-1)
    assert preprocessor(grey).shape == grey.shape


def test_one_image_of_many_channels():
    image = np.random.default_rng(0).uniform(0, 255, (4, 5, 7))
    asked = Preprocessor(2.0, 3.0).with_channels(7)
    np.testing.assert_allclose(array(asked(image)), (image - 2) / 3, atol=1e-4)
    batch = Preprocessor(2.0, 3.0)(image[None])
    np.testing.assert_array_equal(array(batch)[0], array(asked(image)))


@pytest.mark.any_backend
@pytest.mark.parametrize("std", [0.0, -1.0, [1.0, 0.0, 1.0]])
def test_std_that_is_not_positive(std):
    with pytest.raises(ValueError, match="std must be positive"):
        Preprocessor(std=std)


@pytest.mark.any_backend
def test_something_that_is_no_array():
    with pytest.raises(ValueError, match=r"Expected an array.*list"):
        Preprocessor()([[1.0]])


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("make", "image_size"),
    [(tiny_vit, (16, 24)), pytest.param(tiny_t2t, (32, 48), marks=pytest.mark.slow)],
)
def test_the_global_image_data_format_changes_nothing(make, image_size):
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 20, 30, 3)).astype("float32")
    before = keras.config.image_data_format()
    outputs = []
    try:
        for data_format in ("channels_last", "channels_first"):
            keras.config.set_image_data_format(data_format)
            keras.utils.set_random_seed(0)
            model = perturb(make(preprocessor=Preprocessor.imagenet(image_size)))
            outputs.append(array(model(model.preprocessor(pixels))))
    finally:
        keras.config.set_image_data_format(before)
    np.testing.assert_array_equal(*outputs)
