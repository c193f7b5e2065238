"""Hostile files that try to read other files or to exhaust the memory.

See also test_bad_files.
"""

import json
import math
import os
import shutil
import zipfile

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file

import keras_vit
from keras_vit.weights.detect import open_checkpoint
from keras_vit.weights.h5 import H5File, load_own_weights
from tests.cases import mostly_slow, tiny_vit
from tests.golden import Golden

pytestmark = pytest.mark.any_backend

OWN = "layers/layer_norm/vars/0"
HUB = "layers/vi_t_encoder/layer_norm/vars/0"


@pytest.fixture(autouse=True)
def nothing_is_built(monkeypatch):
    """Fail if a weight is created before the attack is detected."""

    def built(*_, **__):
        raise AssertionError("a weight was made before the error")

    monkeypatch.setattr("keras.layers.Layer.add_weight", built)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a directory with the `.keras` and `.weights.h5` files of a model."""
    path = tmp_path_factory.mktemp("saved")
    model = tiny_vit()
    model.save(path / "model.keras")
    model.save_weights(path / "model.weights.h5")
    return path


def external(file, name, shape, path):
    (path / "secret").write_bytes(bytes(4 * math.prod(shape)))
    file.create_dataset(
        name, shape, "float32", external=[(str(path / "secret"), 0, 4 * math.prod(shape))]
    )


def virtual(file, name, shape, path):
    with h5py.File(path / "other.h5", "w") as other:
        other["values"] = np.ones(shape, "float32")
    layout = h5py.VirtualLayout(shape, "float32")
    layout[...] = h5py.VirtualSource(str(path / "other.h5"), "values", shape)
    file.create_virtual_dataset(name, layout)


def external_link(file, name, shape, path):
    with h5py.File(path / "other.h5", "w") as other:
        other["values"] = np.ones(shape, "float32")
    file[name] = h5py.ExternalLink(str(path / "other.h5"), "values")


def soft_link(file, name, shape, path):
    file["elsewhere"] = np.ones(shape, "float32")
    file[name] = h5py.SoftLink("/elsewhere")


def two_names(file, name, shape, path):
    file["elsewhere"] = np.ones(shape, "float32")
    file[name] = file["elsewhere"]


def references(file, name, shape, path):
    file.create_dataset(name, shape, h5py.ref_dtype)


def never_written(file, name, shape, path):
    file.create_dataset(name, shape, "float32")


def without_chunks(file, name, shape, path):
    file.create_dataset(name, (10**9,), "float32", chunks=(10**6,))


def inflates(file, name, shape, path):
    zeros = np.zeros(10**7, "float32")
    file.create_dataset(name, data=zeros, compression="gzip", chunks=(10**6,))


H5_ATTACKS = {
    external: "is stored in other files, .*secret",
    virtual: "is a virtual dataset",
    external_link: "is a link",
    soft_link: "is a link",
    two_names: "also has another name",
    references: "holds object, not numbers",
    never_written: "but no values",
    without_chunks: "but no values",
    inflates: "would expand to",
}


def change_h5(path, name, attack):
    with h5py.File(path, "a") as file:
        shape = file[name].shape
        del file[name]
        attack(file, name, shape, path.parent)


@pytest.mark.parametrize(("attack", "message"), H5_ATTACKS.items())
@pytest.mark.parametrize("kind", ["preset", "task", "weights", "keras"])
def test_h5(tmp_path, saved, kind, attack, message):
    if kind in ("preset", "task"):
        shutil.copytree(Golden("keras_hub_token").path, tmp_path, dirs_exist_ok=True)
        path = tmp_path / {"preset": "model", "task": "task"}[kind]
        name = HUB if kind == "preset" else "layers/dense/vars/0"
        change_h5(path.with_suffix(".weights.h5"), name, attack)
        path = tmp_path
    else:
        path = tmp_path / f"x.{kind}{'.h5' if kind == 'weights' else ''}"
        shutil.copy(saved / "model.weights.h5", tmp_path / "x.weights.h5")
        change_h5(tmp_path / "x.weights.h5", OWN, attack)
    if kind == "keras":
        rewrite(saved, path, "model.weights.h5", (tmp_path / "x.weights.h5").read_bytes())
    if kind == "weights":
        with pytest.raises(ValueError, match=message):
            load_own_weights(None, path, True)
        return
    with pytest.raises(ValueError, match=message):
        keras_vit.load_checkpoint(path)


def rewrite(saved, path, name, content):
    """Write a copy of `model.keras` with one member replaced."""
    with (
        zipfile.ZipFile(saved / "model.keras") as old,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for member in old.namelist():
            new.writestr(member, content if member == name else old.read(member))


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5"])
def test_a_member_of_a_keras_file_inflates(tmp_path, saved, member):
    rewrite(saved, tmp_path / "x.keras", member, bytes(10**7))
    with pytest.raises(ValueError, match=r"x\.keras .*would expand to \d+ bytes"):
        keras_vit.load_checkpoint(tmp_path / "x.keras")


def test_a_foreign_model_is_not_built(tmp_path, saved):
    layer = {"class_name": "Dense", "config": {"units": 10**9}, "module": "keras.layers"}
    config = {
        "class_name": "Sequential",
        "module": "keras",
        "config": {"layers": [layer]},
    }
    rewrite(saved, tmp_path / "x.keras", "config.json", json.dumps(config))
    with pytest.raises(ValueError, match=r"holds a Sequential, not a keras_vit\.ViT"):
        keras_vit.load_checkpoint(tmp_path / "x.keras")


@pytest.mark.parametrize("size", ["num_layers", "hidden_dim", "mlp_dim", "classes"])
def test_a_config_that_is_larger_than_its_file(tmp_path, saved, monkeypatch, size):
    monkeypatch.undo()  # Creating weights is allowed until the budget is exceeded.
    with zipfile.ZipFile(saved / "model.keras") as archive:
        config = json.loads(archive.read("config.json"))
    config["config"][size] = 2000
    rewrite(saved, tmp_path / "x.keras", "config.json", json.dumps(config))
    with pytest.raises(ValueError, match=r"x\.keras .*larger model than the file"):
        keras_vit.load_checkpoint(tmp_path / "x.keras")


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", ["stride 0", "overlap", "meta", "sparse", "keys"])
def test_tensors_of_a_pth(tmp_path, kind, legacy):
    torch = pytest.importorskip("torch")
    attacks = {
        "stride 0": lambda: torch.zeros(1).expand(10**9, 1),
        "overlap": lambda: torch.zeros(60000).as_strided((30000, 30000), (1, 1)),
        "meta": lambda: torch.zeros(10**6, 10**6, device="meta"),
        "sparse": lambda: torch.zeros(2, 2).to_sparse(),
        "keys": lambda: torch.zeros(1),
    }
    tensors = {"a": torch.zeros(3), 5 if kind == "keys" else "b": attacks[kind]()}
    path = tmp_path / "x.pth"
    torch.save(tensors, path, _use_new_zipfile_serialization=not legacy)
    message = r"would expand to \d+ bytes|not a dense tensor|no dict of tensors"
    with pytest.raises(ValueError, match=message):
        keras_vit.load_checkpoint(path)


@pytest.mark.parametrize("kind", ["deflated", "flipped"])
def test_a_pth_whose_bytes_changed(tmp_path, kind):
    """Check that changed bytes are detected; memory-mapping alone would use them."""
    torch = pytest.importorskip("torch")
    path = tmp_path / "x.pth"
    torch.save({"weight": torch.ones(1000)}, tmp_path / "good.pth")
    if kind == "deflated":
        with (
            zipfile.ZipFile(tmp_path / "good.pth") as old,
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for member in old.namelist():
                new.writestr(member, old.read(member))
    else:
        content = bytearray((tmp_path / "good.pth").read_bytes())
        content[content.index(b"\0\0\x80\x3f" * 100) + 200] ^= 1
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"is compressed|its checksum is wrong"):
        keras_vit.load_checkpoint(path)


def test_tensors_of_a_pth_without_plain_values(tmp_path):
    torch = pytest.importorskip("torch")
    tensors = load_file(Golden("timm_deit3").path)
    tensors = {n: torch.from_numpy(x) for n, x in tensors.items()}
    negative = torch._neg_view(tensors["norm.bias"])
    torch.save({**tensors, "norm.bias": negative}, tmp_path / "negative.pth")
    with open_checkpoint(tmp_path / "negative.pth").file.reader() as read:
        np.testing.assert_array_equal(read("norm.bias"), -tensors["norm.bias"].numpy())
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    torch.save({**tensors, "norm.bias": nested}, tmp_path / "nested.pth")
    with pytest.raises(ValueError, match=r"not a dense tensor in CPU memory \(nested"):
        open_checkpoint(tmp_path / "nested.pth")


def test_a_program_of_torch(tmp_path):
    torch = pytest.importorskip("torch")
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("x/code/net.py", "x/data.pkl", "x/constants.pkl"):
            archive.writestr(name, b"")
    with pytest.raises(ValueError, match=r"TorchScript program.*state_dict\(\)"):
        keras_vit.load_checkpoint(tmp_path / "x.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pth")
    with pytest.raises(ValueError, match=r"save model\.state_dict\(\) instead"):
        keras_vit.load_checkpoint(tmp_path / "whole.pth")


def test_the_advice_of_torch_is_not_repeated(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"code": os.system}, tmp_path / "code.pth")
    with pytest.raises(ValueError, match="would have to execute") as error:
        keras_vit.load_checkpoint(tmp_path / "code.pth")
    assert "weights_only" not in str(error.value)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("../outside.safetensors", "not a file name"),
        ("/etc/passwd", "not a file name"),
        ("..", "not a regular file"),
        ("pipe", "not a regular file"),
        ("device", "not a regular file"),
        ("gone", "gone is missing"),
        (3, "must give the name of a file"),
        (None, "at most 1000 files"),
        ("other.safetensors", "its index and its files disagree"),
    ],
)
def test_an_index(tmp_path, file, message):
    golden = Golden("timm_token")
    os.mkfifo(tmp_path / "pipe")
    os.symlink("/dev/zero", tmp_path / "device")
    shutil.copy(golden.path, tmp_path / "other.safetensors")
    index = dict.fromkeys(load_file(golden.path), file)
    if file is None:
        index = {str(i): f"{i}.safetensors" for i in range(100_000)}
    if file == "other.safetensors":
        index.pop("head.bias")
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    with pytest.raises(ValueError, match=message):
        keras_vit.load_checkpoint(tmp_path)


@pytest.mark.parametrize("end", ["npz", "safetensors", "pth", "keras", "weights.h5"])
def test_a_pipe_is_not_opened(tmp_path, end):
    if end == "pth":
        pytest.importorskip("torch")
    os.mkfifo(tmp_path / f"x.{end}")
    path = str(tmp_path / f"x.{end}")
    load = keras_vit.load_checkpoint
    if end == "weights.h5":
        load = lambda path: H5File({"": path})  # noqa: E731
    with pytest.raises(ValueError, match="not a regular file"):
        load(path)


@pytest.mark.parametrize("length", [2**63, 2**25, 2**20])
def test_the_length_of_a_safetensors_header(tmp_path, length):
    path = tmp_path / "x.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match=f"announces a header of {length} bytes"):
        keras_vit.load_checkpoint(path)


def test_members_of_an_npz_that_overlap(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.zeros(10_000, "float32"))
    content = path.read_bytes()
    start, end = content.index(b"PK\x01\x02"), content.index(b"PK\x05\x06")
    entry = content[start:end]
    entries = [entry.replace(b"a.npy", b"%c.npy" % c) for c in b"bcdefgh"]
    size = len(entry) * len(entries)
    tail = content[end : end + 8] + len(entries).to_bytes(2, "little") * 2
    tail += size.to_bytes(4, "little") + start.to_bytes(4, "little") + b"\0\0"
    path.write_bytes(content[:start] + b"".join(entries) + tail)
    with pytest.raises(ValueError, match="its members claim"):
        keras_vit.load_checkpoint(path)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": NaN}', '{"a": 1' + "0" * 5000 + "}", '{"a"']
)
def test_json_beside_a_checkpoint(tmp_path, text):
    shutil.copy(Golden("timm_token").path, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is not readable JSON"):
        keras_vit.load_checkpoint(tmp_path)


ABSURD = [True, "16", 1e308, -1, 0, [], {}, None]


@pytest.mark.parametrize(
    "name",
    mostly_slow(["hf_vit", "timm_token", "keras_hub_token"], "timm_token"),
)
def test_absurd_values_of_a_config(tmp_path, monkeypatch, name):
    """Check that each absurd value raises a clear error or has no effect."""
    golden = Golden(name)
    if golden.path.is_dir():
        shutil.copytree(golden.path, tmp_path, dirs_exist_ok=True)
        config = json.loads((tmp_path / "config.json").read_text())
    else:
        shutil.copy(golden.path, tmp_path / "model.safetensors")
        config = golden.config if name == "hf_vit" else {}
        if name == "timm_token":
            published = {"input_size": [3, 48, 48], "mean": [0.5] * 3, "std": [0.5] * 3}
            published |= {"crop_pct": 0.9, "interpolation": "bicubic"}
            arguments = {"num_heads": 4, "act_layer": "gelu"}
            config = {"architecture": "vit_tiny_patch16_224", "global_pool": "token"}
            config |= {"pretrained_cfg": published, "model_args": arguments}

    class BuiltError(Exception):
        pass

    def built(*_, **__):
        raise BuiltError

    monkeypatch.setattr("keras.layers.Layer.add_weight", built)
    for parent in (config, *(v for v in config.values() if isinstance(v, dict))):
        for key, value in list(parent.items()):
            for absurd in ABSURD:
                parent[key] = absurd
                (tmp_path / "config.json").write_text(json.dumps(config))
                try:
                    keras_vit.load_checkpoint(tmp_path)
                except (ValueError, OSError, BuiltError):
                    continue
                except Exception as error:
                    message = f"{key}={absurd!r:.20}: {type(error).__name__}: {error}"
                    raise AssertionError(message) from error
            parent[key] = value
