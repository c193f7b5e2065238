"""The benchmark runs its contestants in turn, and tells what they did."""

import json
import os
import subprocess
import sys

import keras
import pytest

from recipes.benchmark import flops
from recipes.benchmark.torchvision_stub import install

BACKEND = keras.backend.backend()
TINY = ["--variant", "Ti16", "--batch", "1", "--repetitions", "1", "--image-size", "32"]


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "recipes.benchmark", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


def test_inference_and_training(tmp_path):
    result = run(
        *("inference", "training", "--alternations", "2", *TINY),
        *("--contestants", f"keras_vit-{BACKEND}", "--out", str(tmp_path)),
    )
    assert result.returncode == 0, result.stderr
    for what in ("inference", "training"):
        record = json.loads((tmp_path / f"{what}.json").read_text())
        (row,) = record["rows"]
        assert row["contestant"] == f"keras_vit-{BACKEND}"
        assert row["error"] is None
        assert len(row["values"]) == 2
        assert min(row["values"]) > 0
        assert (tmp_path / f"{what}.png").stat().st_size > 1000
        assert f"keras_vit-{BACKEND}" in (tmp_path / f"{what}.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "unknown WHAT: speed; choose from matmul, inference"),
        (["inference", "--image-size", "30"], "the patch of S16, 16, must divide"),
        (["width", "--widths", "100"], "multiples of 64"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    arguments, message, tmp_path
):
    result = run(*arguments, "--out", str(tmp_path / "out"))
    assert result.returncode == 2
    assert message in result.stderr
    assert not (tmp_path / "out").exists()


def test_flops_are_twice_the_multiply_adds_that_timm_tells():
    """timm and the paper's readers count 4.6 G multiply-adds for S/16, 17.6 for B/16."""
    s16 = flops.forward(224, 16, 384, 12, 1536)
    b16 = flops.forward(224, 16, 768, 12, 3072)
    assert s16 / 2e9 == pytest.approx(4.6, abs=0.05)
    assert b16 / 2e9 == pytest.approx(17.6, abs=0.05)
    sizes = {"image_size": 224, "patch_size": 16, "hidden_dim": 384}
    sizes |= {"num_layers": 12, "mlp_dim": 1536, "num_heads": 6}
    assert flops.training(**sizes) == 3 * s16


def test_the_stub_is_for_where_torchvision_is_missing(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    before = list(sys.meta_path)
    install()
    assert sys.meta_path == before
