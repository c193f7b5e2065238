import functools
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import pytest

import keras_vit

FRAMEWORKS = (
    "tensorflow",
    "jax",
    "torch",
    "flax",
    "matplotlib",
    "sklearn",
    "tensorflow_datasets",
    "tf2onnx",
    "onnx",
    "onnxruntime",
    "ai_edge_litert",
)
# One process imports these in turn, since Keras takes seconds.
MODULES = ("keras", "keras_vit", "keras_vit.data.pipeline")
# Compiled models are saved with these optimizers and losses.
OPTIMIZERS = ("AdamW", "SGD", "Lion", "Lamb", "Muon")
TRAINED = (
    *(f"keras_vit>{name}" for name in OPTIMIZERS),
    "keras_vit_recipes>SigmoidLoss",
)
PROBE = """
import importlib, json, sys
frameworks, modules, trained = map(json.loads, sys.argv[1:])
found = {}
for module in modules:
    importlib.import_module(module)
    found[module] = [f for f in frameworks if f in sys.modules]
    if module == "keras_vit":
        get = sys.modules["keras"].saving.get_registered_object
        found["unknown"] = [name for name in trained if get(name) is None]
print(json.dumps(found))
"""


@functools.cache
def loaded():
    """Return the frameworks that are loaded after each import, and unknown objects."""
    process = subprocess.run(
        [sys.executable, "-c", PROBE, *map(json.dumps, (FRAMEWORKS, MODULES, TRAINED))],
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(process.stdout.splitlines()[-1])


# The pipeline imports all other modules of the data code.
@pytest.mark.parametrize("module", MODULES[1:])
def test_import_loads_no_framework_that_keras_does_not(module):
    assert loaded()[module] == loaded()["keras"]


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow" or not importlib.util.find_spec("tensorflow"),
    reason="TensorFlow is the backend, or is not there to be loaded",
)
def test_tensorflow_stays_out_under_another_backend():
    assert "tensorflow" not in loaded()["keras_vit"]


def test_import_is_enough_to_read_what_trained():
    assert loaded()["unknown"] == []


# What may import each of these: its own modules, and the packages named here.
IMPORTERS = {
    "evaluation": ("callbacks.py", "cli"),
    "training": ("api.py", "cli", "configs", "evaluation"),
    "serve": ("cli",),
    # convert.py: `python -m keras_vit.convert` still works for one release.
    "cli": ("__main__.py", "convert.py"),
}


@pytest.mark.any_backend
@pytest.mark.parametrize("package", IMPORTERS)
def test_imports_point_one_way(package):
    root = pathlib.Path(keras_vit.__file__).parent
    importing = re.compile(rf"^\s*(from|import) keras_vit(\.| import ){package}\b", re.M)
    importers = {
        path.relative_to(root).parts[0]
        for path in root.rglob("*.py")
        if importing.search(path.read_text())
    }
    assert importers <= {package, *IMPORTERS[package]}


@pytest.mark.any_backend
def test_the_package_imports_no_recipes():
    root = pathlib.Path(keras_vit.__file__).parent
    importing = re.compile(r"^\s*(from|import) recipes\b", re.M)
    assert [p for p in root.rglob("*.py") if importing.search(p.read_text())] == []
