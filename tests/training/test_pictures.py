"""Pictures that runs write."""

import importlib

import pytest

matplotlib = pytest.importorskip("matplotlib")

from keras_vit.training import pictures  # noqa: E402


@pytest.mark.any_backend
def test_the_backend_of_matplotlib_stays(monkeypatch, tmp_path):
    """Notebooks show no more pictures if the backend changes."""
    monkeypatch.setitem(matplotlib.rcParams, "backend", "svg")
    importlib.reload(pictures)
    history = {"loss": [2.0, 1.0], "val_loss": [2.5, 1.5]}
    pictures.learning_curves({"training": history}, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert matplotlib.rcParams["backend"] == "svg"
