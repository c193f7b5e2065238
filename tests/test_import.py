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
PROBE = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
print(json.dumps([f for f in sys.argv[2:] if f in sys.modules]))
"""


def loaded_by(module):
    process = subprocess.run(
        [sys.executable, "-c", PROBE, module, *FRAMEWORKS],
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(process.stdout.splitlines()[-1])


def test_import_loads_no_framework_that_keras_does_not():
    assert loaded_by("keras_vit") == loaded_by("keras")


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow" or not importlib.util.find_spec("tensorflow"),
    reason="TensorFlow is the backend, or is not there to be loaded",
)
def test_tensorflow_stays_out_under_another_backend():
    assert "tensorflow" not in loaded_by("keras_vit")


def test_import_is_enough_to_read_what_trained():
    # Compiled models are saved with these optimizers and losses.
    names = ("keras_vit>AdamW", "keras_vit>SGD", "keras_vit_recipes>SigmoidLoss")
    code = """if True:
        import keras, keras_vit, sys
        print(*map(keras.saving.get_registered_object, sys.argv[1:]))
    """
    process = subprocess.run(
        [sys.executable, "-c", code, *names],
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "None" not in process.stdout


# What may import each of these: its own modules, and the packages named here.
IMPORTERS = {
    "evaluation": ("cli",),
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
