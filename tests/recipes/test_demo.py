import contextlib
import io
import json
import os
import pathlib
import re
import subprocess
import sys
from unittest import mock

import keras
import numpy as np
import pytest

from recipes import demo
from tests.export.serving import exports_here

pytest.importorskip("sklearn", reason="recipes need scikit-learn")
pytestmark = pytest.mark.usefixtures("tensorflow")

ROOT = pathlib.Path(__file__).parents[2]
ACCURACY = r"Test accuracy after fine-tuning at 16x16: ([\d.]+)%"


@pytest.mark.slow
@pytest.mark.any_backend
def test_a_short_demo_leaves_everything_it_names(tmp_path):
    workdir, printed = tmp_path / "demo", io.StringIO()
    command = ["demo", "--workdir", str(workdir), "--epochs", "1", "1"]
    called = mock.patch.object(sys, "argv", command)
    with contextlib.redirect_stdout(printed), exports_here(), called:
        demo.main()
    printed = printed.getvalue()
    assert 0 <= float(re.search(ACCURACY, printed)[1]) <= 100
    named = re.findall(r"^  .*: (\S+)$", printed, re.MULTILINE)
    assert [pathlib.Path(path).name for path in named] == [
        "pretrained.keras",
        "finetuned.keras",
        "1",
        "images.npz",
        "predictions.npz",
        "curves.png",
        "predictions.png",
    ]
    for path in named:
        assert pathlib.Path(path).exists()
    for name in ("curves.png", "predictions.png"):
        assert (workdir / name).read_bytes().startswith(b"\x89PNG")
    with np.load(workdir / "predictions.npz") as predictions:
        assert predictions["probabilities"].shape == (360, 10)
    difference = re.search(r"within ([\d.e-]+) of Keras", printed)[1]
    assert float(difference) < 1e-5


@pytest.mark.any_backend
def test_what_the_demo_refuses(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["demo", "--workdir", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        demo.main()
    assert "exists; choose a new --workdir" in capsys.readouterr().err


@pytest.fixture
def served(tmp_path, tensorflow):
    """Return a SavedModel that takes gray images."""
    module = tensorflow.Module()
    shape = (None, None, None, 1)

    def serve(images):
        return {"logits": tensorflow.ensure_shape(images, shape)}

    spec = tensorflow.TensorSpec(shape, name="images")
    module.serve = tensorflow.function(serve, [spec])
    tensorflow.saved_model.save(module, tmp_path / "1", {"serving_default": module.serve})
    return tmp_path / "1"


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("model", "images", "message"),
    [
        ("none", "small.npz", "no SavedModel at"),
        ("1", "1/saved_model.pb", "is not an .npz file with images"),
        ("1", "small.npz", "takes images (None, None, None, 1); received"),
    ],
)
def test_what_classify_refuses(
    model, images, message, served, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "keras", None)  # Restored after the test.
    from recipes import classify

    np.savez(tmp_path / "small.npz", images=np.zeros((4, 8, 8, 3)))
    paths = [tmp_path / model, tmp_path / images, tmp_path / "out.npz"]
    monkeypatch.setattr(sys, "argv", ["classify", *map(str, paths)])
    with pytest.raises(SystemExit, match="2"):
        classify.main()
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="slow without XLA")
def test_the_demo_reaches_97_percent(tmp_path):
    process = subprocess.run(
        [sys.executable, "-m", "recipes.demo", "--workdir", tmp_path / "demo"],
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert "no Keras" in process.stdout
    lines = [line for line in process.stdout.splitlines() if "accuracy after" in line]
    print(json.dumps(lines))
    assert float(re.search(ACCURACY, process.stdout)[1]) >= 97
    seconds = re.search(r"Training and testing took (\d+) s", process.stdout)[1]
    assert int(seconds) < 300
