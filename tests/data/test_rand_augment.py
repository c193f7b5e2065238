"""RandAugment operations, compared with those of Pillow."""

import numpy as np
import pytest

from keras_vit.data import color_operations as colors
from keras_vit.data import spatial_operations as spatial
from keras_vit.data.host import compiled
from keras_vit.data.rand_augment import OPERATIONS, Draw, RandAugment, apply_one

pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]
FILL = (124, 116, 104)


@pytest.fixture
def image():
    generator = np.random.default_rng(0)
    pixels = generator.normal(100, 30, (37, 53, 3)) + np.arange(53)[None, :, None]
    return pixels.clip(0, 255).astype("uint8")


@pytest.fixture
def pil():
    return pytest.importorskip("PIL.Image", reason="Pillow defines the operations")


def test_look_up_operations_are_pillows(image, pil):
    from PIL import ImageOps

    picture = pil.fromarray(image)
    flat = np.full_like(image, 7)
    flat[:, :, 1] = image[:, :, 1]
    for ours, theirs in (
        (colors.autocontrast, ImageOps.autocontrast),
        (colors.equalize, ImageOps.equalize),
    ):
        np.testing.assert_array_equal(ours(image), theirs(picture))
        np.testing.assert_array_equal(ours(flat), theirs(pil.fromarray(flat)))
    for bits in (1, 4, 8):
        expected = ImageOps.posterize(picture, bits)
        np.testing.assert_array_equal(colors.posterize(image, bits), expected)
    assert colors.posterize(image, 0).numpy().max() == 0
    for threshold in (0, 77, 256):
        expected = ImageOps.solarize(picture, threshold)
        np.testing.assert_array_equal(colors.solarize(image, threshold), expected)


@pytest.mark.parametrize("name", ["Brightness", "Contrast", "Color", "Sharpness"])
def test_blends_are_pillows(image, pil, name):
    import tensorflow as tf
    from PIL import ImageEnhance

    module = spatial if name == "Sharpness" else colors
    operation = getattr(module, name.lower())
    for factor in (0.1, 0.55, 1.0, 1.1, 1.45, 1.9):
        expected = getattr(ImageEnhance, name)(pil.fromarray(image)).enhance(factor)
        np.testing.assert_array_equal(operation(image, factor), expected)
        found = compiled(operation)(tf.constant(image), tf.constant(factor))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_compiled_tables_are_pillows(pil, name):
    import tensorflow as tf
    from PIL import ImageOps

    generator = np.random.default_rng(1)
    for low in range(0, 250, 10):
        high = generator.integers(low + 1, 257)
        image = generator.integers(low, high, (16, 16, 3)).astype("uint8")
        expected = getattr(ImageOps, name)(pil.fromarray(image))
        found = compiled(getattr(colors, name))(tf.constant(image))
        np.testing.assert_array_equal(found, expected)


def test_tables_of_all_values_are_the_operations():
    values = np.arange(256, dtype="uint8")
    image = np.stack([values, values[::-1], np.roll(values, 99)], -1)[None]
    for operation, settings in {
        colors.posterize: (0, 1, 4, 8),
        colors.solarize: (0, 77, 128, 256),
        colors.solarize_add: (0, 55, 110),
        colors.brightness: (0.1, 0.55, 1.0, 1.9),
        lambda x, factor: colors.contrast(x, factor, 77.0): (0.1, 0.55, 1.0, 1.9),
    }.items():
        for setting in settings:
            table = operation(colors.all_values(3), setting)
            expected = operation(image, setting)
            np.testing.assert_array_equal(colors.look_up(table, image), expected)
            # A table of a table is the composition of two operations.
            twice = colors.look_up(operation(table, setting), image)
            np.testing.assert_array_equal(twice, operation(expected, setting))


def test_histogram(image):
    counts = colors.histogram(image).numpy()
    for channel in range(3):
        expected = np.bincount(image[:, :, channel].ravel(), minlength=256)
        np.testing.assert_array_equal(counts[:, channel], expected)


def bilinear(image, matrix):
    """Return an image transformed by an affine map in float64, with FILL around it."""
    a, b, c, d, e, f = matrix
    y, x = np.mgrid[: image.shape[0], : image.shape[1]] + 0.5
    margin = 60
    sides = ((margin, margin), (margin, margin))
    framed = [
        np.pad(image[..., i], sides, constant_values=FILL[i]).astype("float64")
        for i in range(3)
    ]
    framed = np.stack(framed, axis=-1)
    column, row = a * x + b * y + c - 0.5 + margin, d * x + e * y + f - 0.5 + margin
    left, top = np.floor(column).astype(int), np.floor(row).astype(int)
    right, down = (column - left)[..., None], (row - top)[..., None]
    rows = [
        (1 - right) * framed[top + i, left] + right * framed[top + i, left + 1]
        for i in (0, 1)
    ]
    return (1 - down) * rows[0] + down * rows[1]


@pytest.mark.parametrize(
    "matrix", [(1, 0.3, 0, 0, 1, 0), (1, 0, 0, -0.23, 1, 0), (1, 0, 7, 0, 1, -3)]
)
def test_affine_maps_are_pillows(image, pil, matrix):
    picture = pil.fromarray(image)

    def transformed(interpolation):
        return picture.transform(
            picture.size, pil.Transform.AFFINE, matrix, interpolation, fillcolor=FILL
        )

    expected = transformed(pil.Resampling.NEAREST)
    np.testing.assert_array_equal(
        spatial.affine(image, matrix, FILL, "NEAREST"), expected
    )
    expected = np.asarray(transformed(pil.Resampling.BILINEAR), "int32")
    actual = spatial.affine(image, matrix, FILL, "BILINEAR").numpy().astype("int32")
    difference = actual - bilinear(image, matrix)
    assert np.abs(difference).max() <= 0.501
    # Pillow truncates instead of rounding, and differs at the border of the image.
    difference = actual - expected
    assert np.mean((difference == 0) | (difference == 1)) > 0.95


def test_rotation_is_pillows(image, pil):
    import tensorflow as tf

    matrix = spatial.rotation(image, tf.constant(np.radians(21), "float32"))
    expected = pil.fromarray(image).rotate(21, fillcolor=FILL)
    actual = spatial.affine(image, matrix, FILL, "NEAREST").numpy()
    assert np.mean(actual == np.asarray(expected)) > 0.999


def test_solarize_add_and_cutout(image):
    added = np.where(image < 128, np.minimum(image.astype(int) + 110, 255), image)
    np.testing.assert_array_equal(colors.solarize_add(image, 110), added)
    # The center is at row 18 of 37 and column 52 of 53; the box is clipped at the right.
    cut = image.copy()
    cut[14:22, 48:53] = 128
    np.testing.assert_array_equal(spatial.cutout(image, (0.5, 0.99), 4, 128), cut)


@pytest.mark.parametrize("style", ["big_vision", "timm"])
def test_every_operation_is_drawn_and_keeps_shape_and_type(image, style):
    import tensorflow as tf

    settings = RandAugment(style, layers=1, magnitude=9.0)

    @tf.function(autograph=False)
    def augmented(seed):
        return settings(tf.constant(image), (0, seed), FILL)

    results = [augmented(tf.constant(seed)).numpy() for seed in range(150)]
    assert {(r.shape, r.dtype.name) for r in results} == {(image.shape, "uint8")}
    drawn = {int(settings._draw((0, seed), 0).index) for seed in range(150)}
    assert drawn == set(range(len(OPERATIONS[style])))
    again = [augmented(tf.constant(seed)).numpy() for seed in range(5)]
    np.testing.assert_array_equal(again, results[:5])


def test_levels_of_both_styles(image):
    import tensorflow as tf

    def applied(style, name, level, sign=1.0):
        index = list(OPERATIONS[style]).index(name)
        draw = Draw(
            tf.constant(index),
            tf.constant(level),
            tf.constant(sign),
            tf.constant([0.5, 0.5]),
        )
        return apply_one(style, tf.constant(image), draw, FILL).numpy()

    def assert_equal(actual, expected):
        np.testing.assert_array_equal(actual, expected)

    assert_equal(applied("big_vision", "Solarize", 1.0), image)
    assert_equal(applied("timm", "Solarize", 1.0), 255 - image)
    assert_equal(applied("big_vision", "Posterize", 1.0), image // 16 * 16)
    assert_equal(applied("timm", "Posterize", 0.75), image // 128 * 128)
    for factor, arguments in ((1.9, (1.0, 1.0)), (0.1, (1.0, -1.0)), (1.45, (0.5, 1.0))):
        expected = colors.color(image, factor)
        assert_equal(applied("timm", "Color", *arguments), expected)
    assert_equal(applied("big_vision", "Color", 0.5), colors.color(image, 1.0))
    moved = applied("timm", "TranslateX", 1.0)
    assert_equal(moved[:, -23:], np.broadcast_to(FILL, (37, 23, 3)))
    moved = applied("timm", "TranslateX", 1.0, -1.0)
    assert_equal(moved[:, :23], np.broadcast_to(FILL, (37, 23, 3)))
    moved = applied("big_vision", "TranslateX", 0.1, -1.0)
    assert_equal(moved[:, :10], np.full((37, 10, 3), 128))
    assert_equal(moved[:, 10:], image[:, :-10])
    # The mean in big_vision's Contrast is the number of pixels / 256: 37 * 53 / 256 = 7.
    expected = colors.contrast(image, 1.9, 7.0)
    assert_equal(applied("big_vision", "Contrast", 1.0), expected)


def test_probability(image):
    import tensorflow as tf

    settings = RandAugment("big_vision", layers=1, probability=0.0)
    for seed in range(5):
        result = settings(tf.constant(image), (0, seed))
        np.testing.assert_array_equal(result, image)


def test_parse():
    assert RandAugment.parse("randaug(2,10)") == RandAugment("big_vision", 2, 10.0)
    assert RandAugment.parse("rand-m9-mstd0.5-inc1") == RandAugment(
        "timm", 2, 9.0, 0.5, 0.5
    )
    assert RandAugment.parse("rand-n3-m7-p0.8-inc1") == RandAugment(
        "timm", 3, 7.0, 0.0, 0.8
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "randaug",
        "randaug(2,11)",
        "randaug(0,5)",
        "rand-m9-mstd0.5",
        "rand-m9-inc0",
        "rand-inc1",
        "rand-m9-n1.5-inc1",
        "rand-m9-x3-inc1",
        "rand-m9-p2-inc1",
        "rand-m9-mstd101-inc1",
        "augmix-m3",
    ],
)
def test_unknown_settings(text):
    with pytest.raises(ValueError, match="RandAugment"):
        RandAugment.parse(text)
