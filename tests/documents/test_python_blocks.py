"""Execution of the Python blocks of README and the documentation, page by page."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import keras_vit
from keras_vit.data.host import tensorflow
from keras_vit.weights.google import save_npz
from keras_vit.weights.timm_writer import timm_directory
from tests.conftest import GOLDENS
from tests.documents import stand_ins
from tests.documents.pages import DOCS, PAGES, blocks_of, name_of
from tests.export.serving import exports_here

FAST = {
    *("docs/index.md", "docs/models.md", "docs/performance.md", "docs/start.md"),
    *("docs/troubleshooting.md", "docs/visualize.md"),
}
# Executed by tests/test_documentation.py, and by `test_devices` below.
ELSEWHERE = {"README.md", "docs/devices.md"}


@pytest.fixture(autouse=True)
def _fast_kernels():
    yield
    keras_vit.kernels.use("fast")


def features(directory):
    return {
        "pixels": stand_ins.pixels(2, 70, 70, 3),
        "dataset": np.zeros((2, 70, 70, 3), "float32"),
        "text_embeddings": np.eye(2, 16, dtype="float32"),
    }


def dense_prediction(directory):
    boxes = np.array([[[8.0, 8.0, 90.0, 120.0, 3.0]]] * 2, "float32")
    return {
        "pixels": stand_ins.pixels(2, 224, 224, 3),
        "masks": stand_ins.pixels(2, 224, 224) % 21,
        "boxes": boxes,
    }


def visualize(directory):
    return {"pixels": stand_ins.pixels(2, 224, 224, 3)}


def serving(directory):
    return {
        "model": stand_ins.classifier(),
        "images": stand_ins.pixels(2, 32, 32, 3).astype("float32"),
    }


def training(directory):
    stand_ins.photos(directory / "flowers", ("rose", "tulip"), 40)
    images = stand_ins.pixels(8, 32, 32, 3) / np.float32(128) - 1
    model = stand_ins.classifier()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    labels = np.arange(8) % 2
    train = tensorflow().data.Dataset.from_tensor_slices((images, labels)).batch(4)
    return {"images": images, "labels": labels, "train": train, "model": model}


def start(directory):
    stand_ins.photos(directory / "new_photos", ("photo",), 1)
    (directory / "new_photos" / "photo" / "0.jpg").rename("new_photos/0001.jpg")
    (directory / "runs" / "photos").mkdir(parents=True)
    model = stand_ins.classifier(class_names=["rose", "tulip"])
    model.save(directory / "runs" / "photos" / "best.keras")
    return {}


def checkpoints(directory):
    google = stand_ins.build("vit_b16.augreg_in21k_ft_in1k_224")
    save_npz(google, directory / "ViT-B_16.npz")
    # The number of heads is known for networks of published sizes.
    antialiased = keras_vit.layers.Preprocessor(
        image_size=(224, 224), resize="bilinear_antialias"
    )
    deit = keras_vit.ViTTi16(preprocessor=antialiased)
    timm_directory(stand_ins.with_scores(deit)).write(directory / "deit")
    (directory / "deit" / "model.safetensors").rename("my_deit.safetensors")
    shutil.copytree(GOLDENS / "keras_hub_token.checkpoint", "my_preset")
    return visualize(directory)


def from_scratch(directory):
    return {"pixels": stand_ins.pixels(32, 32, 32, 3), "labels": np.arange(32) % 10}


def distillation(directory):
    size = {"hidden_dim": 16, "num_layers": 1, "num_heads": 2, "mlp_dim": 16}
    teacher = keras_vit.ViT((48, 48, 3), 16, classes=10, **size)
    return {**from_scratch(directory), "teacher": teacher}


def resolution(directory):
    return {"pixels": stand_ins.pixels(2, 48, 48, 3), "labels": np.array([0, 4])}


def troubleshooting(directory):
    return {
        "keras_vit": keras_vit,
        "model": stand_ins.classifier(),
        "pixels": stand_ins.pixels(2, 48, 48, 3),
    }


# The names that the blocks of a page use without defining them.
GIVEN = {
    "docs/index.md": visualize,
    "docs/features.md": features,
    "docs/visualize.md": visualize,
    "docs/training.md": training,
    "docs/distillation.md": distillation,
    "docs/dense_prediction.md": dense_prediction,
    "docs/serving.md": serving,
    "docs/start.md": start,
    "docs/checkpoints.md": checkpoints,
    "docs/from_scratch.md": from_scratch,
    "docs/migration.md": visualize,
    "docs/resolution.md": resolution,
    "docs/troubleshooting.md": troubleshooting,
}


def pages_with_code():
    for page in PAGES:
        blocks = [block for block in blocks_of(page) if block.language == "python"]
        if blocks and name_of(page) not in ELSEWHERE:
            marks = [] if name_of(page) in FAST else [pytest.mark.slow]
            yield pytest.param(page, blocks, id=name_of(page), marks=marks)


@pytest.mark.any_backend
@pytest.mark.parametrize(("page", "blocks"), pages_with_code())
def test_blocks_run(page, blocks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = GIVEN.get(name_of(page), lambda _: {})(tmp_path)
    with stand_ins.published(tmp_path), stand_ins.narrow_variants(), exports_here():
        for block in blocks:
            if "import keras_hub" in block.code:
                pytest.importorskip("keras_hub")
            # The empty lines give errors the line numbers of the page.
            source = "\n" * (block.line - 1) + block.code
            exec(compile(source, str(page), "exec"), names)


@pytest.mark.any_backend
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_devices(backend, tmp_path):
    pytest.importorskip(backend)
    blocks = [b for b in blocks_of(DOCS / "devices.md") if b.language == "python"]
    own = [
        b.code for b in blocks if ("tensorflow" in b.code) == (backend == "tensorflow")
    ]
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(["import keras_vit", *own])],
        env={**os.environ, **flags, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
