import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.layers import RESIZE_CONVENTIONS, Preprocessor, ResNetStem, resize_grid
from tests.cases import array, mostly_slow, perturb, random_images, tiny_vit


def weights(model):
    return {w.path: array(w) for w in model.weights}


@pytest.mark.any_backend
@pytest.mark.parametrize("resize", mostly_slow(RESIZE_CONVENTIONS, "google", "bicubic"))
@pytest.mark.parametrize("prefix", mostly_slow([0, 1, 5], 1))
@pytest.mark.parametrize(
    "size", [(24, 16), pytest.param((16, 48), marks=pytest.mark.slow), (8, 8)]
)
def test_grid_resized_prefix_untouched(resize, prefix, size):
    model = tiny_vit(pooling="token" if prefix else "gap", registers=max(prefix - 1, 0))
    before = weights(perturb(model))
    larger = model.resized((*size, 3), resize=resize)
    after = weights(larger)
    path = "patch_encoder/positions/embedding"
    rows = int(prefix > 0)
    old, new = before.pop(path), after.pop(path)
    np.testing.assert_array_equal(new[:, :rows], old[:, :rows])
    grid = resize_grid(old[0, rows:].reshape(2, 3, 16), larger.grid_shape, resize)
    np.testing.assert_array_equal(new[0, rows:], grid.reshape(-1, 16))
    assert before.keys() == after.keys()
    for path in before:
        np.testing.assert_array_equal(before[path], after[path])
    assert tuple(larger(random_images(larger)).shape) == (2, 5)


@pytest.mark.any_backend
def test_a_hybrid():
    model = perturb(tiny_vit(stem=ResNetStem((1,), width=32), patch_size=2))
    larger = model.resized((30, 24, 3))
    assert larger.grid_shape == (4, 3)
    before, after = weights(model), weights(larger)
    for path in before.keys() - {"patch_encoder/positions/embedding"}:
        np.testing.assert_array_equal(before[path], after[path])
    assert larger.get_layer("stem") is not model.get_layer("stem")
    assert tuple(larger(random_images(larger)).shape) == (2, 5)
    with pytest.raises(ValueError, match=r"16x24 pixels.*map of 4x6.*29x29"):
        keras_vit.ViTRTi16(input_shape=(64, 64, 3)).resized((16, 24, 3))


def test_the_model_itself_is_left_as_it_was():
    model = perturb(tiny_vit())
    images = random_images(model)
    before = array(model(images))
    model.resized((32, 32, 3))
    np.testing.assert_array_equal(array(model(images)), before)


@pytest.mark.parametrize(
    "positions",
    mostly_slow(["learned", "learned_2d", "relative", "sincos_2d", "none"], "learned_2d"),
)
def test_the_same_size_gives_the_same_outputs(positions):
    model = perturb(tiny_vit(positions=positions))
    images = random_images(model)
    same = model.resized(model.input_shape[1:])
    np.testing.assert_allclose(array(same(images)), array(model(images)), atol=1e-6)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("positions", "path", "length"),
    [
        ("learned_2d", "patch_encoder/positions/rows", 4),
        ("learned_2d", "patch_encoder/positions/columns", 5),
        ("relative", "block_1/attention/relative_positions/rows", 7),
        ("relative", "block_1/attention/relative_positions/columns", 9),
    ],
)
def test_tables_by_axis_are_resized_along_it(positions, path, length):
    model = perturb(tiny_vit(positions=positions))
    larger = model.resized((32, 40, 3), resize="bicubic")
    old, new = weights(model)[path], weights(larger)[path]
    expected = resize_grid(old[:, None], (length, 1), "bicubic")[:, 0]
    np.testing.assert_allclose(new, expected, atol=1e-6)


@pytest.mark.any_backend
def test_a_smooth_field_of_positions_stays_the_same_field():
    # Corner-aligned linear resizing is exact for a field that is linear in x and y.
    model = tiny_vit(pooling="gap", input_shape=(32, 40, 3))
    y, x = np.mgrid[0:1:4j, 0:1:5j]
    field = np.stack([y, x, *[y + i * x for i in range(14)]], axis=-1)
    table = model.get_layer("patch_encoder").positions.embedding
    table.assign(field.reshape(1, -1, 16))
    larger = model.resized((56, 72, 3))
    y, x = np.mgrid[0:1:7j, 0:1:9j]
    field = np.stack([y, x, *[y + i * x for i in range(14)]], axis=-1)
    resized = array(larger.get_layer("patch_encoder").positions.embedding)
    np.testing.assert_allclose(resized, field.reshape(1, -1, 16), atol=1e-5)


@pytest.mark.any_backend
def test_everything_else_is_kept():
    model = tiny_vit(name="mine", dtype="mixed_bfloat16", dropout_rate=0.1)
    model.get_layer("block_0").trainable = False
    config = model.resized((32, 32, 3)).get_config()
    expected = {**model.get_config(), "input_shape": (32, 32, 3)}
    expected["preprocessor"]["config"]["image_size"] = (32, 32)
    assert config == expected


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("shape", "resize", "message"),
    [
        ((20, 16, 3), "google", "20x16 pixels.*patches of 8x8"),
        ((32, 32, 1), "google", "height and width only.*3 channels"),
        ((32, 32, 3), "nearest", "Unknown resize 'nearest'.*'google'"),
        ((32, 32), "google", "three positive ints"),
    ],
)
def test_bad_arguments(shape, resize, message):
    with pytest.raises(ValueError, match=message):
        tiny_vit().resized(shape, resize=resize)


@pytest.mark.slow_elsewhere
def test_a_resized_model_saves_and_loads(tmp_path):
    model = perturb(tiny_vit()).resized((32, 24, 3))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    images = random_images(model)
    np.testing.assert_array_equal(array(loaded(images)), array(model(images)))


@pytest.mark.slow_elsewhere
def test_a_model_made_in_a_name_scope(goldens):
    with keras.name_scope("outer"):
        model = perturb(tiny_vit(positions="relative"))
        keras_vit.load_checkpoint(goldens / "google_gap.checkpoint.npz")
        assert model.weights[0].path.startswith("outer/")
        larger = model.resized((32, 32, 3))
    same = larger.resized((16, 24, 3)).get_layer("block_0").mlp.expand.kernel
    kernel = model.get_layer("block_0").mlp.expand.kernel
    np.testing.assert_array_equal(array(same), array(kernel))


@pytest.mark.any_backend
def test_the_preprocessor_makes_the_new_size():
    model = tiny_vit()
    larger = model.resized((32, 40, 3))
    assert model.preprocessor.image_size == (16, 24)
    assert larger.preprocessor.image_size == (32, 40)
    images = np.zeros((2, 50, 60, 3), "uint8")
    assert larger(larger.preprocessor(images)).shape == (2, 5)
    scaling = tiny_vit(preprocessor=Preprocessor()).resized((32, 40, 3))
    assert scaling.preprocessor.image_size is None
