"""Damaged, hostile and unsuitable files; see also test_google."""

import pickle
import warnings
import zipfile

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import keras_vit
from keras_vit.weights.tensor_file import LARGEST_EXPANSION
from tests.cases import array, mostly_slow
from tests.golden import Golden

pytestmark = pytest.mark.any_backend


def test_nans_are_named(tmp_path):
    golden = Golden("timm_token")
    tensors = load_file(golden.path)
    tensors["blocks.1.mlp.fc1.weight"][3, :2] = np.nan
    tensors["blocks.1.mlp.fc1.weight"][0, 0] = np.inf
    path = tmp_path / "nan.safetensors"
    save_file(tensors, path)
    size = tensors["blocks.1.mlp.fc1.weight"].size
    message = rf"blocks\.1\.mlp\.fc1\.weight in .*: 3 of {size} .*check_finite=False"
    with pytest.raises(ValueError, match=message):
        keras_vit.load_checkpoint(path, **golden.overrides)
    model = keras_vit.load_checkpoint(path, **golden.overrides, check_finite=False)
    kernel = array(model.weights_by_path()["block_1/mlp/expand/kernel"])
    assert np.count_nonzero(~np.isfinite(kernel)) == 3
    config = {**golden.load().get_config(), "weights": path}
    with pytest.raises(ValueError, match="NaN or infinite"):
        keras_vit.ViT.from_config(config)


def test_a_head_of_zeros_is_announced(tmp_path):
    golden = Golden("google_gap")
    arrays = golden.arrays
    arrays["head/kernel"][:] = 0
    path = tmp_path / "zeros.npz"
    np.savez(path, **arrays)
    with pytest.warns(UserWarning, match=r"classifier in .*zeros\.npz is all zeros"):
        keras_vit.load_checkpoint(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keras_vit.load_checkpoint(path, head="new", classes=3)
        keras_vit.load_checkpoint(path, head="drop")
        keras_vit.load_checkpoint(golden.path)


def test_an_npz_that_would_fill_the_memory(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, **{"embedding/kernel": np.zeros((2**22,), "float32")})
    assert LARGEST_EXPANSION * path.stat().st_size < 2**24
    with pytest.raises(ValueError, match=r"would expand to \d+ bytes"):
        keras_vit.load_checkpoint(path)


def test_a_bomb_in_a_header(tmp_path):
    """Check that a huge header, which NumPy would read first, is an error."""
    path = tmp_path / "header.npz"
    header = b"\x93NUMPY\x02\x00" + (2**26).to_bytes(4, "little") + b" " * 2**26
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("embedding/kernel.npy", header)
    with pytest.raises(ValueError, match=r"would expand to \d+ bytes"):
        keras_vit.load_checkpoint(path)


def test_a_header_that_announces_more_than_there_is(tmp_path):
    golden = Golden("google_gap")
    path = tmp_path / "short.npz"
    with zipfile.ZipFile(golden.path) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.namelist():
            content = old.read(member)
            new.writestr(member, content[:-4] if member == "head/bias.npy" else content)
    with pytest.raises(ValueError, match=r"head/bias should have \d+ bytes and has"):
        keras_vit.load_checkpoint(path)


def test_two_arrays_of_one_name(tmp_path):
    golden = Golden("google_gap")
    path = tmp_path / "twice.npz"
    with zipfile.ZipFile(golden.path) as old, zipfile.ZipFile(path, "w") as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))
        with pytest.warns(UserWarning, match="Duplicate"):
            new.writestr("head/bias.npy", old.read("head/bias.npy"))
    with pytest.raises(ValueError, match="it contains head/bias twice"):
        keras_vit.load_checkpoint(path)


@pytest.mark.parametrize(
    "name", ["a.npz", "a.safetensors", "a.pth", "a.bin", "a.pth.tar", "a.keras"]
)
@pytest.mark.parametrize("size", [0, 7, 10_000])
def test_random_bytes(tmp_path, name, size):
    if ".pth" in name or ".bin" in name:
        pytest.importorskip("torch")
    path = tmp_path / name
    path.write_bytes(np.random.default_rng(size).bytes(size))
    with pytest.raises(ValueError, match=rf"{name} \({size} bytes\) is not a readable"):
        keras_vit.load_checkpoint(path)


class Code:
    """Object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, "w"))


@pytest.mark.parametrize("format", ["zip", "pickle"])
def test_code_in_a_pth_is_never_executed(tmp_path, format):
    torch = pytest.importorskip("torch")
    path, trace = tmp_path / "code.pth", tmp_path / "executed"
    content = {"cls_token": torch.zeros(1), "code": Code(trace)}
    if format == "zip":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps({"code": Code(trace)}))
    with pytest.raises(ValueError, match=r"code\.pth.*not a readable \.pth"):
        keras_vit.load_checkpoint(path)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["timm_token", "hf_vit"])
@pytest.mark.parametrize(
    "wrap", mostly_slow([None, "state_dict", "model_ema"], "model_ema")
)
def test_what_torch_saves(tmp_path, name, wrap):
    torch = pytest.importorskip("torch")
    golden = Golden(name)
    tensors = {n: torch.from_numpy(x) for n, x in load_file(golden.path).items()}
    if wrap:
        tensors = {f"module.{n}": x for n, x in tensors.items()}
        tensors = {wrap: tensors, "epoch": 3, "optimizer": {"lr": [0.1]}}
    path = tmp_path / "model.pth.tar"
    torch.save(tensors, path)
    model = keras_vit.load_checkpoint(
        path, **golden.overrides, classifier_activation=None
    )
    logits = model.predict(golden.inputs, verbose=0)
    np.testing.assert_allclose(logits, golden.outputs, rtol=0, atol=1e-4)


def test_two_names_of_one_tensor_in_a_pth(tmp_path):
    torch = pytest.importorskip("torch")
    golden = Golden("timm_token")
    tensors = {n: torch.from_numpy(x) for n, x in load_file(golden.path).items()}
    tensors["module.norm.bias"] = tensors["norm.bias"] + 1
    torch.save(tensors, tmp_path / "twice.pth")
    with pytest.raises(
        ValueError, match=r"not used by the model \(1\):\n +module\.norm\.bias"
    ):
        keras_vit.load_checkpoint(tmp_path / "twice.pth", **golden.overrides)


def test_a_pth_without_torch(tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    path.write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(ImportError, match=r"keras_vit\[torch\].*\.safetensors"):
        keras_vit.load_checkpoint(path)


@pytest.mark.parametrize("content", ["{", "[1]", '"text"'])
def test_a_configuration_that_is_none(tmp_path, content):
    golden = Golden("hf_vit")
    (tmp_path / "model.safetensors").write_bytes(golden.path.read_bytes())
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json (is not|must hold)"):
        keras_vit.load_checkpoint(tmp_path)


def test_a_damaged_preset(tmp_path):
    golden = Golden("keras_hub_token")
    for file in golden.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = (tmp_path / "model.weights.h5").read_bytes()
    (tmp_path / "model.weights.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"model\.weights\.h5 .*not a readable"):
        keras_vit.load_checkpoint(tmp_path)


@pytest.mark.parametrize("missing", ["model.weights.h5", "task.json"])
def test_a_preset_that_is_not_whole(tmp_path, missing):
    golden = Golden("keras_hub_token")
    for file in golden.path.iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ValueError, match=rf"is incomplete; missing: .*{missing}"):
        keras_vit.load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "name", mostly_slow(["x.keras", "x.pth", "x.weights.h5", "x.npz"], "x.keras", "x.npz")
)
def test_no_such_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"No checkpoint at '{name}'"):
        keras_vit.ViTTi16(weights=name)


def test_a_keras_file_of_something_else(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    model.save(tmp_path / "other.keras")
    with pytest.raises(ValueError, match=r"holds a Sequential, not a keras_vit\.ViT"):
        keras_vit.load_checkpoint(tmp_path / "other.keras")
