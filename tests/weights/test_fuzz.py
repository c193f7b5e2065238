"""Fuzzing of checkpoints with seeded mutations.

Not every format has checksums, so a mutated file may be valid. A mutated file must either
raise an error that names the file, or give the same tensors that NumPy, safetensors,
torch or h5py read from it. It must not end the process or raise any other error.
"""

import json
import shutil
import zipfile
import zlib

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import keras_vit
from keras_vit.weights.detect import open_checkpoint
from keras_vit.weights.keras_file import check_keras_file
from tests.cases import tiny_vit
from tests.golden import Golden

pytestmark = pytest.mark.any_backend

PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "size": {"height": 64, "width": 64},
}


def read_npz(path):
    with np.load(path) as arrays:
        return dict(arrays)


def read_torch(path):
    torch = pytest.importorskip("torch")
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}


def read_h5(path):
    found = {}

    def visit(name, node):
        if isinstance(node, h5py.Dataset):
            found[name] = node[()]

    with h5py.File(path / "model.weights.h5", "r") as file:
        file.visititems(visit)
    return found


def read_index(path):
    index = json.loads((path / "model.safetensors.index.json").read_text())
    found = {}
    for shard in set(index["weight_map"].values()):
        found |= load_file(path / shard)
    return found


def read_keras(path):
    """Return the members of a `.keras` file that Keras reads, as bytes."""
    with zipfile.ZipFile(path) as archive:
        return {
            name: np.frombuffer(archive.read(name), "uint8")
            for name in ("config.json", "model.weights.h5")
        }


def make_npz(path):
    shutil.copy(Golden("google_token").path, path / "x.npz")
    return path / "x.npz", ["x.npz"], read_npz


def make_safetensors(path):
    shutil.copy(Golden("timm_deit3").path, path / "x.safetensors")
    return path / "x.safetensors", ["x.safetensors"], load_file


def make_torch(path, name="x.pth", **arguments):
    torch = pytest.importorskip("torch")
    tensors = load_file(Golden("timm_deit3").path)
    tensors = {n: torch.from_numpy(x) for n, x in tensors.items()}
    torch.save(tensors, path / name, **arguments)
    return path / name, [name], read_torch


def make_bin(path):
    return make_torch(path, "x.bin", _use_new_zipfile_serialization=False)


def make_h5(path):
    shutil.copytree(Golden("keras_hub_backbone").path, path, dirs_exist_ok=True)
    return path, ["model.weights.h5", "config.json"], read_h5


def make_index(path):
    tensors = load_file(Golden("hf_vit_headless").path)
    shards = {"a.safetensors": list(tensors)[:9], "b.safetensors": list(tensors)[9:]}
    for shard, names in shards.items():
        save_file({n: tensors[n] for n in names}, path / shard)
    index = {n: shard for shard, names in shards.items() for n in names}
    text = json.dumps({"weight_map": index})
    (path / "model.safetensors.index.json").write_text(text)
    return path, ["model.safetensors.index.json", "a.safetensors"], read_index


def make_directory(path):
    golden = Golden("hf_vit")
    shutil.copy(golden.path, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({**golden.config, "image_size": 64}))
    (path / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    files = ["config.json", "preprocessor_config.json"]
    return path, files, lambda path: load_file(path / "model.safetensors")


def make_keras(path):
    tiny_vit().save(path / "x.keras")
    return path / "x.keras", ["x.keras"], read_keras


FORMATS = {
    f.__name__.removeprefix("make_"): f
    for f in (
        *(make_npz, make_safetensors, make_torch, make_bin, make_h5, make_index),
        *(make_directory, make_keras),
    )
}


def mutate(content, generator):
    """Return a copy with flipped, cut, repeated or swapped bytes, or other headers."""
    content = bytearray(content)
    # Headers are much smaller than the data, so half of all mutations target them.
    ends = generator.choice([64, 1024, len(content)])
    low = 0 if generator.integers(2) else max(0, len(content) - int(ends))
    high = min(len(content), low + int(ends))
    start = int(generator.integers(low, high))
    stop = min(len(content), start + int(generator.choice([1, 4, 100, 5000])))
    kind = generator.integers(7)
    if kind <= 1:
        for _ in range(generator.choice([1, 2, 8])):
            content[generator.integers(low, high)] ^= 1 << int(generator.integers(8))
    elif kind == 2:
        del content[start:]
    elif kind == 3:
        del content[start:stop]
    elif kind == 4:
        content[start:start] = content[start:stop] * int(generator.choice([1, 20]))
    elif kind == 5:
        content[start:stop] = generator.bytes(stop - start)
    else:
        other = int(generator.integers(low, high))
        part = content[other : other + stop - start]
        content[start : start + len(part)] = part
    return bytes(content)


def read_ours(path):
    if path.suffix == ".keras":
        check_keras_file(str(path), keras_vit.ViT)
        return read_keras(path)
    source = open_checkpoint(path)
    source.infer_config({"num_heads": 4, "positions": "learned"})
    assert isinstance(source.preprocessing, dict)
    with source.file.reader() as read:
        return {name: read(name) for name in source.file.shapes}


def check(path, label, read_reference):
    """Check a mutated file and return True if it loads."""
    try:
        ours = read_ours(path)
    except (ValueError, OSError) as error:
        if path.name in str(error):  # Errors of keras_vit name the file.
            return False
        raise AssertionError(f"{label}: {type(error).__name__}: {error}") from error
    except Exception as error:
        raise AssertionError(f"{label}: {type(error).__name__}: {error}") from error
    reference = read_reference(path)
    assert ours.keys() == reference.keys(), label
    for name, array in reference.items():
        expected = array.astype(ours[name].dtype)
        assert ours[name].shape == expected.shape, f"{label}: {name}"
        assert ours[name].tobytes() == expected.tobytes(), f"{label}: {name}"
    return True


def fuzz(directory, name, count):
    path, files, read_reference = FORMATS[name](directory)
    assert check(path, "unchanged", read_reference)
    base = path if path.is_dir() else path.parent
    originals = {file: (base / file).read_bytes() for file in files}
    loaded = 0
    for number in range(count):
        file = files[number % len(files)]
        generator = np.random.default_rng([zlib.crc32(name.encode()), number])
        (base / file).write_bytes(mutate(originals[file], generator))
        loaded += check(path, f"{name}, mutation {number} of {file}", read_reference)
        (base / file).write_bytes(originals[file])
    return loaded


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", FORMATS)
def test_mutations(tmp_path, name):
    fuzz(tmp_path, name, 25)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", FORMATS)
def test_many_mutations(tmp_path, name):
    loaded = fuzz(tmp_path, name, 250)
    print(f"{name}: {loaded} of 250 load")
