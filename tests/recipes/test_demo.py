import json
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="recipes need scikit-learn")
pytestmark = pytest.mark.usefixtures("tensorflow")

ROOT = pathlib.Path(__file__).parents[2]
ACCURACY = r"Test accuracy after fine-tuning at 16x16: ([\d.]+)%"


def demo(*arguments):
    return recipe("demo", *arguments)


def recipe(name, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"recipes.{name}", *map(str, arguments)],
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.mark.any_backend
def test_a_short_demo_leaves_everything_it_names(tmp_path):
    workdir = tmp_path / "demo"
    process = demo("--workdir", workdir, "--epochs", 1, 1)
    assert process.returncode == 0, process.stderr
    assert 0 <= float(re.search(ACCURACY, process.stdout)[1]) <= 100
    assert "no Keras" in process.stdout
    named = re.findall(r"^  .*: (\S+)$", process.stdout, re.MULTILINE)
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
    difference = re.search(r"within ([\d.e-]+) of Keras", process.stdout)[1]
    assert float(difference) < 1e-5

    small = tmp_path / "small.npz"
    np.savez(small, images=np.zeros((4, 8, 8, 3)))
    for arguments, message in [
        ([workdir, small], "no SavedModel at"),
        (
            [workdir / "served" / "1", workdir / "curves.png"],
            "is not an .npz file with images",
        ),
        (
            [workdir / "served" / "1", small],
            "takes images (None, None, None, 1); received",
        ),
    ]:
        process = recipe("classify", *arguments, tmp_path / "out.npz")
        assert process.returncode == 2
        assert message in process.stderr
    assert not (tmp_path / "out.npz").exists()

    again = demo("--workdir", workdir)
    assert again.returncode == 2
    assert "exists; choose a new --workdir" in again.stderr


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() == "torch", reason="slow without XLA")
def test_the_demo_reaches_97_percent(tmp_path):
    process = demo("--workdir", tmp_path / "demo")
    assert process.returncode == 0, process.stderr
    lines = [line for line in process.stdout.splitlines() if "accuracy after" in line]
    print(json.dumps(lines))
    assert float(re.search(ACCURACY, process.stdout)[1]) >= 97
    seconds = re.search(r"Training and testing took (\d+) s", process.stdout)[1]
    assert int(seconds) < 300
