"""Naming schemes of big_vision checkpoints."""

import re

import ml_dtypes
import numpy as np
import pytest

import keras_vit
from keras_vit.convert import convert
from keras_vit.weights.detect import open_checkpoint
from keras_vit.weights.google import save_npz
from tests.cases import array, mostly_slow, perturb, tiny_vit
from tests.golden import Golden

pytestmark = pytest.mark.any_backend

POSITIONS = "Transformer/posembed_input/pos_embedding"


@pytest.fixture
def golden():
    return Golden("google_token")  # A file with Linen's names and three blocks.


def load(path, golden, **overrides):
    arguments = {"input_shape": golden.input_shape, "classifier_activation": None}
    return keras_vit.load_checkpoint(path, **{**arguments, **overrides})


def assert_same_logits(path, golden, **overrides):
    logits = load(path, golden, **overrides).predict(golden.inputs, verbose=0)
    np.testing.assert_allclose(logits, golden.outputs, rtol=0, atol=1e-4)


def write(path, arrays):
    np.savez(path, **arrays)
    return path


def stacked(arrays):
    """Stack the arrays of all blocks, as `nn.scan` does."""
    result, blocks = {}, {}
    for name, array_ in arrays.items():
        block = re.sub(r"encoderblock_\d+", "encoderblock", name)
        blocks.setdefault(block, []).append(array_)
    for name, parts in blocks.items():
        result[name] = np.stack(parts) if "encoderblock/" in name else parts[0]
    return result


@pytest.mark.parametrize(
    "prefix", mostly_slow(["params/", "params/img/", "opt/target/"], "params/img/")
)
def test_prefixes(golden, tmp_path, prefix):
    arrays = {prefix + name: x for name, x in golden.arrays.items()}
    beside = {"params/img/": "params/txt/head/bias", "opt/target/": "opt/state/step"}
    if prefix in beside:
        arrays[beside[prefix]] = np.zeros(3, "int32")
    assert_same_logits(write(tmp_path / "prefixed.npz", arrays), golden)


def test_something_unknown_beside_the_model(golden, tmp_path):
    arrays = {f"params/{name}": x for name, x in golden.arrays.items()}
    arrays["more/kernel"] = np.zeros(3, "float32")
    with pytest.raises(ValueError, match=r"more/kernel outside .* under 'params/'"):
        load(write(tmp_path / "more.npz", arrays), golden)


def test_stacked_blocks(golden, tmp_path):
    arrays = stacked(golden.arrays)
    assert arrays["Transformer/encoderblock/LayerNorm_0/scale"].shape == (3, 48)
    assert_same_logits(write(tmp_path / "stacked.npz", arrays), golden)


def test_bfloat16_without_its_type(golden, tmp_path):
    arrays = {n: x.astype(ml_dtypes.bfloat16) for n, x in golden.arrays.items()}
    path = write(tmp_path / "half.npz", {n: x.view("V2") for n, x in arrays.items()})
    model, exact = load(path, golden), load(golden.path, golden)
    for half, whole in zip(model.weights, exact.weights, strict=True):
        expected = array(whole).astype(ml_dtypes.bfloat16).astype("float32")
        np.testing.assert_array_equal(array(half), expected)


def test_positions_at_the_top(golden, tmp_path):
    arrays = golden.arrays
    arrays["pos_embedding"] = arrays.pop(POSITIONS)
    assert_same_logits(write(tmp_path / "top.npz", arrays), golden)


@pytest.mark.slow
def test_positions_of_the_grid_alone(golden, tmp_path):
    """Check that a missing row for the class token counts as zero."""
    arrays = golden.arrays
    arrays[POSITIONS][:, 0] = 0
    expected = load(write(tmp_path / "zero.npz", arrays), golden)
    arrays[POSITIONS] = arrays[POSITIONS][:, 1:]
    path = write(tmp_path / "grid.npz", arrays)
    model = load(path, golden)
    assert model.get_config()["class_token_position"] is False
    np.testing.assert_allclose(
        model.predict(golden.inputs, verbose=0),
        expected.predict(golden.inputs, verbose=0),
        atol=1e-6,
    )
    config = {**model.get_config(), "class_token_position": True}
    with pytest.raises(ValueError, match=r"no row.*class_token_position=False"):
        keras_vit.ViT.from_config({**config, "weights": path})


def test_fixed_positions_are_not_in_the_file(golden, tmp_path):
    arrays = golden.arrays
    del arrays[POSITIONS]
    path = write(tmp_path / "fixed.npz", arrays)
    model = load(path, golden)
    assert model.get_config()["positions"] == "sincos_2d"
    with pytest.raises(ValueError, match="does not determine the size"):
        keras_vit.load_checkpoint(path)


def test_positions_are_written_where_big_vision_looks(golden, tmp_path):
    """Check the names that `fix_old_checkpoints` and timm's `_load_weights` read."""
    path = tmp_path / "converted.npz"
    convert(golden.path, path, input_shape=golden.input_shape)
    with np.load(path) as arrays:
        assert POSITIONS not in arrays
        np.testing.assert_array_equal(arrays["pos_embedding"], golden.arrays[POSITIONS])
    assert_same_logits(path, golden)


def test_attention_pooling(tmp_path):
    """Check the names of the MAP head against the code of big_vision."""
    model = perturb(tiny_vit(pooling="map", classifier_activation=None))
    path = tmp_path / "map.npz"
    save_npz(model, path, names="linen")
    with np.load(path) as arrays:
        shapes = {name: arrays[name].shape for name in arrays if "MAPHead" in name}
    attention, mlp = "MAPHead_0/MultiHeadDotProductAttention_0", "MAPHead_0/MlpBlock_0"
    assert shapes == {
        "MAPHead_0/probe": (1, 1, 16),
        **{f"{attention}/{x}/kernel": (16, 2, 8) for x in ("query", "key", "value")},
        **{f"{attention}/{x}/bias": (2, 8) for x in ("query", "key", "value")},
        f"{attention}/out/kernel": (2, 8, 16),
        f"{attention}/out/bias": (16,),
        "MAPHead_0/LayerNorm_0/scale": (16,),
        "MAPHead_0/LayerNorm_0/bias": (16,),
        f"{mlp}/Dense_0/kernel": (16, 24),
        f"{mlp}/Dense_0/bias": (24,),
        f"{mlp}/Dense_1/kernel": (24, 16),
        f"{mlp}/Dense_1/bias": (16,),
    }
    again = keras_vit.load_checkpoint(path, input_shape=(16, 24, 3))
    for (name, weight), other in zip(
        model.weights_by_path().items(), again.weights, strict=True
    ):
        np.testing.assert_array_equal(array(other), array(weight), err_msg=name)


@pytest.mark.parametrize(
    "name",
    mostly_slow(
        [
            "google_token",
            "google_token_prelogits",
            "google_gap",
            "google_hybrid_r",
            "google_hybrid_stem_only",
        ],
        "google_token_prelogits",
        "google_hybrid_r",
    ),
)
def test_there_and_back_is_bit_identical(tmp_path, name):
    golden = Golden(name)
    path = tmp_path / "back.npz"
    names = open_checkpoint(golden.path).names
    save_npz(golden.load(), path, names=names)
    with np.load(path) as back:
        written = dict(back)
    arrays = dict(golden.arrays)
    if names == "linen" and POSITIONS in arrays:  # big_vision and timm read it there.
        arrays["pos_embedding"] = arrays.pop(POSITIONS)
    assert set(written) == set(arrays)
    for key, expected in arrays.items():
        if "gn_root" in key:  # Old files have leading axes of length 1.
            expected = expected.reshape(-1)
        np.testing.assert_array_equal(written[key], expected, err_msg=key)
    with pytest.raises(FileExistsError, match="exists; delete it"):
        save_npz(golden.load(), path)


@pytest.mark.parametrize(
    ("argument", "value"), [("registers", 1), ("activation", "gelu")]
)
def test_networks_that_google_does_not_have(tmp_path, argument, value):
    with pytest.raises(ValueError, match=f"Google's checkpoints have {argument}="):
        save_npz(tiny_vit(**{argument: value}), tmp_path / "no.npz")
    assert not list(tmp_path.iterdir())
