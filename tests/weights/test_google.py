import zipfile

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.layers import resize_grid
from keras_vit.weights.detect import open_checkpoint
from keras_vit.weights.google import save_npz
from tests.cases import array
from tests.golden import Golden

pytestmark = pytest.mark.any_backend

NAMES = ["google_token", "google_token_prelogits", "google_gap"]
POSITIONS = "Transformer/posembed_input/pos_embedding"


def constructor(golden):
    config = golden.config
    return {
        "input_shape": golden.input_shape,
        "patch_size": config["patches"]["size"][0],
        "hidden_dim": config["hidden_size"],
        "num_layers": config["transformer"]["num_layers"],
        "num_heads": config["transformer"]["num_heads"],
        "mlp_dim": config["transformer"]["mlp_dim"],
        "classes": config["num_classes"],
        "pooling": config["classifier"],
        "representation_size": config["representation_size"],
        "classifier_activation": None,
    }


@pytest.fixture
def square():
    return Golden("google_token_prelogits")


def write(path, arrays):
    np.savez(path, **arrays)
    return path


def test_a_square_grid_needs_no_input_shape(square):
    model = keras_vit.load_checkpoint(str(square.path))
    assert model.input_shape == (None, 64, 64, 3)
    probabilities = array(model(square.inputs))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_another_grid_that_is_not_square_needs_both():
    golden = Golden("google_token")
    with pytest.raises(ValueError, match=r"(?s)not form a.*pass input_shape"):
        keras_vit.load_checkpoint(golden.path)
    with pytest.raises(ValueError, match=r"60 positions.*square.*source_grid_shape"):
        keras_vit.load_checkpoint(golden.path, input_shape=(64, 64, 3))
    with pytest.raises(ValueError, match=r"source_grid_shape=\(5, 5\) has 25.*60"):
        keras_vit.load_checkpoint(
            golden.path, input_shape=(64, 64, 3), source_grid_shape=(5, 5)
        )
    model = keras_vit.load_checkpoint(
        golden.path, input_shape=(64, 64, 3), source_grid_shape=(6, 10)
    )
    positions = golden.arrays[POSITIONS]
    grid = resize_grid(positions[0, 1:].reshape(6, 10, -1), (8, 8), "google")
    loaded = array(model.get_layer("patch_encoder").positions.embedding)
    np.testing.assert_array_equal(loaded[0, :1], positions[0, :1])
    np.testing.assert_array_equal(loaded[0, 1:], grid.reshape(64, -1))


def test_a_number_of_positions_that_two_grids_share_is_not_guessed(square):
    arguments = {"input_shape": (32, 128, 3)}  # The grid is 2x8, and 4x4 in the file.
    with pytest.raises(ValueError, match=r"\(4, 4\) or of \(2, 8\).*source_grid_shape"):
        keras_vit.load_checkpoint(square.path, **arguments)
    model = keras_vit.load_checkpoint(square.path, **arguments, source_grid_shape=(4, 4))
    assert model.grid_shape == (2, 8)


@pytest.mark.parametrize("resize", [None, "google", "bicubic_antialias"])
def test_positions_resized_as_the_model_would(square, resize):
    larger = keras_vit.load_checkpoint(
        square.path, input_shape=(96, 80, 3), resize=resize
    )
    expected = keras_vit.load_checkpoint(square.path).resized(
        (96, 80, 3), resize=resize or "google"
    )
    for loaded, resized in zip(larger.weights, expected.weights, strict=True):
        np.testing.assert_allclose(array(loaded), array(resized), atol=1e-6)


def test_other_classes_need_a_new_head(square):
    with pytest.raises(ValueError, match="does not fit this model") as error:
        keras_vit.load_checkpoint(square.path, classes=3)
    message = str(error.value)
    assert "head/bias: the model needs (3,), the file has (10,)" in message
    assert "head='new'" in message
    model = keras_vit.load_checkpoint(square.path, classes=3, head="new")
    assert model.get_config()["representation_size"] is None
    np.testing.assert_allclose(array(model(square.inputs)), np.full((2, 3), 1 / 3))
    tokens = keras.Model(model.input, model.get_layer("norm").output)
    whole = keras_vit.load_checkpoint(square.path)
    expected = keras.Model(whole.input, whole.get_layer("norm").output)
    np.testing.assert_array_equal(
        array(tokens(square.inputs)), array(expected(square.inputs))
    )


def test_a_new_head_may_have_a_representation_layer_and_a_bias(square):
    model = keras_vit.ViT(
        **{**constructor(square), "classes": 3, "classifier_bias": -10.0},
        weights=square.path,
        head="new",
    )
    np.testing.assert_allclose(array(model(square.inputs)), np.full((2, 3), -10.0))


def test_features_leave_the_head_in_the_file(square):
    pooled = keras_vit.load_checkpoint(square.path, include_top=False)
    tokens = keras_vit.load_checkpoint(square.path, include_top=False, pooling=None)
    mean = keras_vit.load_checkpoint(square.path, include_top=False, pooling="gap")
    expected = array(tokens(square.inputs))
    assert expected.shape == (2, 17, 64)
    np.testing.assert_allclose(array(pooled(square.inputs)), expected[:, 0], atol=1e-6)
    expected = expected[:, 1:].mean(axis=1)
    np.testing.assert_allclose(array(mean(square.inputs)), expected, atol=1e-6)


def test_any_argument_overrides_what_was_inferred(square):
    model = keras_vit.load_checkpoint(square.path, dropout_rate=0.1, name="mine")
    assert model.get_config()["dropout_rate"] == 0.1
    assert model.name == "mine"


@pytest.mark.parametrize(
    ("argument", "value"), [("activation", "gelu"), ("layer_norm_epsilon", 1e-5)]
)
def test_numerics_that_the_checkpoint_was_not_trained_with(square, argument, value):
    with pytest.warns(UserWarning, match=f"was trained with {argument}=.*the model has"):
        model = keras_vit.load_checkpoint(square.path, **{argument: value})
    assert model.get_config()[argument] == value


def test_too_many_too_few_and_reshaped_tensors_are_all_listed(square, tmp_path):
    arrays = dict(square.arrays)
    del arrays["Transformer/encoder_norm/bias"]
    arrays["extra/kernel"] = np.zeros((2, 3), "float32")
    arrays["embedding/bias"] = np.zeros(63, "float32")
    path = write(tmp_path / "damaged.npz", arrays)
    with pytest.raises(ValueError, match="does not fit this model") as error:
        keras_vit.load_checkpoint(path)
    message = str(error.value)
    assert "needed by the model, not in the file (1):" in message
    assert "Transformer/encoder_norm/bias (64,)" in message
    assert "in the file, not used by the model (1):" in message
    assert "extra/kernel (2, 3)" in message
    assert "embedding/bias: the model needs (64,), the file has (63,)" in message


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    NAMES,
)
def test_no_tensor_can_be_left_out(tmp_path, name):
    golden = Golden(name)
    for missing in golden.arrays:
        arrays = {k: v for k, v in golden.arrays.items() if k != missing}
        path = write(tmp_path / "short.npz", arrays)
        with pytest.raises(ValueError, match=missing):
            keras_vit.ViT(**constructor(golden), weights=path)


def test_a_checkpoint_of_another_size_lists_both_sides(square):
    with pytest.raises(ValueError, match="does not fit this model") as error:
        keras_vit.ViTTi16(weights=square.path)
    message = str(error.value)
    assert "Transformer/encoderblock_2/LayerNorm_0/scale (192,)" in message
    assert "pre_logits/kernel (64, 48)" in message
    assert "needed by the model, not in the file (160):" in message
    assert "in the file, not used by the model (2):" in message
    assert len(message.splitlines()) > 200
    assert "embedding/kernel: the model needs (16, 16, 3, 192)" in message


def test_nothing_is_allocated_before_the_error(square, monkeypatch):
    def built(*_, **__):
        raise AssertionError("something was allocated before the error")

    monkeypatch.setattr(keras.layers.Layer, "add_weight", built)
    with pytest.raises(ValueError, match="does not fit this model"):
        keras_vit.load_checkpoint(square.path, num_layers=3)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("registers", 2),
        ("layer_scale", 0.1),
        ("qkv_bias", False),
        ("positions", "relative"),
        ("final_norm", "after_pooling"),
    ],
)
def test_arguments_that_google_does_not_have(square, argument, value):
    with pytest.raises(ValueError, match=f"requires {argument}="):
        keras_vit.load_checkpoint(square.path, head="new", **{argument: value})


def test_headless_files(square, tmp_path):
    arrays = {
        k: v for k, v in square.arrays.items() if not k.startswith(("head", "pre_"))
    }
    path = write(tmp_path / "headless.npz", arrays)
    with pytest.raises(ValueError, match=r"no head.*head='new'.*include_top=False"):
        keras_vit.load_checkpoint(path)
    with pytest.raises(ValueError, match="no head: pass classes"):
        keras_vit.load_checkpoint(path, head="new")
    model = keras_vit.load_checkpoint(path, head="new", classes=4)
    assert model.output_shape == (None, 4)
    assert keras_vit.load_checkpoint(path, include_top=False).output_shape == (None, 64)


def test_float16_files(square, tmp_path):
    halves = {k: v.astype("float16") for k, v in square.arrays.items()}
    model = keras_vit.load_checkpoint(
        write(tmp_path / "half.npz", halves), classifier_activation=None
    )
    np.testing.assert_allclose(array(model(square.inputs)), square.outputs, atol=1e-2)


def test_no_such_file():
    with pytest.raises(FileNotFoundError, match=r"No checkpoint at 'gone\.npz'"):
        keras_vit.load_checkpoint("gone.npz")


def test_a_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a KerasHub preset"):
        keras_vit.load_checkpoint(tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.999])
def test_a_truncated_file(square, tmp_path, kept):
    content = square.path.read_bytes()
    length = kept if isinstance(kept, int) else int(kept * len(content))
    path = tmp_path / "short.npz"
    path.write_bytes(content[:length])
    with pytest.raises(ValueError, match=r"not a readable \.npz.*download it again"):
        keras_vit.load_checkpoint(path)


@pytest.mark.parametrize("content", [b"PK\x03\x04 but no zip", b"\x93NUMPY", b"text"])
def test_a_file_that_is_no_npz(tmp_path, content):
    path = tmp_path / "other.npz"
    path.write_bytes(content * 100)
    with pytest.raises(ValueError, match=r"not a readable \.npz"):
        keras_vit.load_checkpoint(path)


def test_a_flipped_byte_in_a_tensor(square, tmp_path):
    content = bytearray(square.path.read_bytes())
    with zipfile.ZipFile(square.path) as archive:
        member = archive.getinfo(
            "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel.npy"
        )
    content[member.header_offset + member.compress_size // 2] ^= 0xFF
    path = tmp_path / "flipped.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"Dense_0/kernel.*download it again"):
        keras_vit.load_checkpoint(path)


def test_a_zip_of_something_else(tmp_path):
    path = tmp_path / "other.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match=r"not a readable \.npz.*readme\.txt"):
        keras_vit.load_checkpoint(path)


def test_an_npz_of_something_else(tmp_path):
    path = write(tmp_path / "other.npz", {"a": np.zeros(3), "b": np.zeros((2, 2))})
    with pytest.raises(
        ValueError, match=r"not a Google ViT.*embedding/kernel.*It has 2 tensors: a, b"
    ):
        keras_vit.load_checkpoint(path)
    path = write(tmp_path / "ints.npz", {"a": np.zeros(3, int)})
    with pytest.raises(ValueError, match=r"a in .* holds int64, not float16"):
        keras_vit.load_checkpoint(path)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (POSITIONS, (64,)),
        (POSITIONS, (17, 64)),
        (POSITIONS, (1, 0, 64)),
        ("head/bias", ()),
        ("embedding/kernel", (768, 64)),
        ("pre_logits/bias", (1, 48)),
    ],
)
def test_a_tensor_of_another_rank(square, tmp_path, name, shape):
    path = write(tmp_path / "rank.npz", {**square.arrays, name: np.zeros(shape, "f4")})
    with pytest.raises(ValueError, match=rf"{name} \({', '.join(map(str, shape))}"):
        keras_vit.load_checkpoint(path)
    with pytest.raises(ValueError, match=name):
        keras_vit.ViT(**constructor(square), weights=path)


def test_a_pickle_inside_is_not_opened(tmp_path):
    path = tmp_path / "pickle.npz"
    np.savez(path, a=np.array([{"code": print}], dtype=object))
    with pytest.raises(ValueError, match="holds object, not float16"):
        keras_vit.load_checkpoint(path)


@pytest.mark.slow
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flood_of_damaged_files(square, tmp_path, save):
    """Check that a damaged file loads completely or raises an error that names it."""
    path = tmp_path / "whole.npz"
    save(path, **square.arrays)
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    refused = loaded = 0
    config = square.load().resolved_config()
    for _ in range(2000):
        damaged = bytearray(content)
        for position in generator.integers(0, len(content), generator.integers(1, 5)):
            damaged[position] ^= 1 << generator.integers(0, 8)
        if generator.random() < 0.3:
            damaged = damaged[: generator.integers(0, len(content))]
        path.write_bytes(damaged)
        try:
            source = open_checkpoint(path)
            source.infer_config({})
            list(source.values(config))
        except ValueError as error:
            refused += str(path) in str(error)
        else:
            loaded += 1
    assert refused + loaded == 2000
    assert refused > 1500


def test_a_stem_with_the_epsilons_of_timm_is_refused(tmp_path):
    stem = keras_vit.layers.ResNetStem((1,), width=32, epsilons="timm")
    model = keras_vit.ViT((32, 32, 3), 1, 16, 1, 2, 32, classes=3, stem=stem)
    with pytest.raises(ValueError, match=r"stem has epsilons='timm'.*have 'google'"):
        save_npz(model, tmp_path / "hybrid.npz")
