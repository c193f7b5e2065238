"""Notebooks of examples/: their sources, their outputs, and programs that run them."""

import json
import os
import re
import subprocess
import sys

import keras
import pytest

import keras_vit
from recipes import notebooks
from tests.conftest import GOLDENS

ROOT = GOLDENS.parents[1]
REAL = ROOT.parent / "shared" / "real"
# Values with which the tests run the notebooks.
VALUES = {
    "checkpoint": str(REAL / "dinov2_small_saliency"),
    "photo": str(REAL / "photos" / "n02097209_standard_schnauzer.JPEG"),
    "photos": str(REAL / "photos"),
}
# Size of a notebook in bytes, with its pictures.
LIMIT = 400_000

every_notebook = pytest.mark.parametrize(
    "path", notebooks.sources(), ids=lambda path: path.stem
)


def built(path):
    return json.loads(path.with_suffix(".ipynb").read_text())


def outputs(notebook):
    return [
        output
        for cell in notebook["cells"]
        if cell["cell_type"] == "code"
        for output in cell["outputs"]
    ]


@pytest.mark.any_backend
@every_notebook
def test_a_notebook_has_the_cells_of_its_source(path):
    jupytext = pytest.importorskip("jupytext")
    source = jupytext.reads(path.read_text(), fmt="py:percent")
    assert notebooks.cells(built(path)) == notebooks.cells(source)


@pytest.mark.any_backend
@every_notebook
def test_outputs(path):
    notebook = built(path)
    kinds = [output["output_type"] for output in outputs(notebook)]
    pictures = [kind for output in outputs(notebook) for kind in output.get("data", ())]
    assert "error" not in kinds
    assert {"image/png", "image/jpeg"} & set(pictures)
    # Warnings, and representations of objects that nobody asked for.
    assert [o for o in outputs(notebook) if o.get("name") == "stderr"] == []
    assert "execute_result" not in kinds
    assert path.with_suffix(".ipynb").stat().st_size < LIMIT
    counts = [c["execution_count"] for c in notebook["cells"] if "outputs" in c]
    assert counts == list(range(1, len(counts) + 1))


@pytest.mark.any_backend
@every_notebook
def test_text(path):
    source = path.read_text()
    cells = [text for _, text in notebooks.cells(built(path))]
    assert cells[0].startswith("# ")
    assert cells[-1].startswith("## Try next\n")
    assert "](../docs/" in cells[-1]
    links = re.findall(r"\]\(([^)#]+)", source)
    assert [link for link in links if not (path.parent / link).is_file()] == []


@pytest.mark.any_backend
@every_notebook
def test_only_public_names(path):
    used = re.findall(r"\bkeras_vit\.(\w+)(?:\.(\w+))?", path.read_text())
    assert {name for name, _ in used} <= set(keras_vit.__all__)
    for module, name in used:
        names = getattr(getattr(keras_vit, module), "__all__", None)
        assert not name or names is None or name in names


@pytest.mark.any_backend
def test_parameters():
    source = '# %% tags=["parameters"]\nphoto = None\nother = 1\n\n# %%\nphoto = 3\n'
    assert notebooks.parameters(source) == ["photo", "other"]
    changed = notebooks.with_parameters(source, {"photo": "a.jpg", "unknown": "b"})
    assert changed == source.replace("None", "'a.jpg'")
    assert notebooks.parameters(changed.partition("# %%\n")[2]) == []


@pytest.mark.any_backend
def test_outputs_name_the_number_of_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3, 5})
    assert ", 3 CPU cores, " in notebooks.about_outputs("")


@pytest.mark.any_backend
def test_messages_of_tensorflow_are_left_out():
    message = (
        "WARNING: All log messages before absl::InitializeLog() ...\nI0000 00:00 a\n"
    )
    assert notebooks.is_native_log({"name": "stderr", "text": message})
    assert not notebooks.is_native_log({"name": "stdout", "text": message})
    warning = message + "UserWarning: something is wrong\n"
    assert not notebooks.is_native_log({"name": "stderr", "text": warning})


@pytest.mark.any_backend
def test_local_files_are_linked(tmp_path):
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "work").mkdir()
    values = {"photo": str(tmp_path / "photo.jpg"), "checkpoint": "hf://some/name"}
    found = notebooks.linked(values, tmp_path / "work")
    assert found == {"photo": "photo.jpg", "checkpoint": "hf://some/name"}
    assert (tmp_path / "work" / "photo.jpg").is_symlink()


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="the notebooks run on TensorFlow and JAX"
)
@every_notebook
def test_source_runs_as_a_program(path, tmp_path):
    source = path.read_text()
    needed = {name: VALUES[name] for name in notebooks.parameters(source)}
    if needed and not REAL.is_dir():
        pytest.skip(f"NOT TESTED: {path.name} needs a trained network, no {REAL}")
    work = tmp_path / "work"
    work.mkdir()
    program = tmp_path / path.name
    program.write_text(notebooks.with_parameters(source, notebooks.linked(needed, work)))
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    # The models are not tiny, unlike those of other tests.
    environment.pop("XLA_FLAGS", None)
    subprocess.run(
        [sys.executable, program], cwd=work, env=environment, check=True, timeout=600
    )
