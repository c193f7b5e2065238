"""Commands that write pages: report, neighbors and robustness."""

import json

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.evaluation.robustness import PARTS, changed_part
from tests.cases import perturb, tiny_vit
from tests.commands import run_command

pytestmark = pytest.mark.any_backend
Image = pytest.importorskip("PIL.Image", reason="pages need Pillow")
pytest.importorskip("sklearn", reason="neighbors need scikit-learn")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    keras.utils.set_random_seed(0)
    sizes = {"input_shape": (8, 8, 1), "patch_size": 4, "classes": 10}
    path = tmp_path_factory.mktemp("checkpoint") / "model.keras"
    perturb(tiny_vit(**sizes)).save(path)
    return str(path)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for name in "abc":
        pixels = generator.integers(0, 256, (20, 30), "uint8")
        Image.fromarray(pixels).save(folder / f"{name}.png")
    Image.fromarray(pixels).save(folder / "copy of c.png")
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def test_report(checkpoint, photos, tmp_path, capsys):
    page = tmp_path / "new" / "page.html"
    sizes = ["--image-size", "16", "24"]
    run_command(
        "report", [checkpoint, str(photos), "--output", str(page), "--limit", "2", *sizes]
    )
    printed = capsys.readouterr()
    assert "the report shows the first 2" in printed.out
    text = page.read_text(encoding="utf-8")
    assert "16 x 24 pixels" in text
    assert "a.png" in text
    with pytest.raises(SystemExit, match="No image at"):
        run_command("report", [checkpoint, "missing.png", "--output", str(page)])
    broken = str(photos / "broken.png")
    with pytest.raises(SystemExit, match="None of the images"):
        run_command(
            "report", [checkpoint, broken, "--output", str(tmp_path / "other.html")]
        )
    assert not (tmp_path / "other.html").exists()


def test_neighbors(checkpoint, photos, tmp_path, capsys):
    workdir = tmp_path / "neighbors"
    arguments = [checkpoint, str(photos), "--workdir", str(workdir)]
    run_command("neighbors", [*arguments, "--duplicates", "0.9999"])
    printed = capsys.readouterr()
    assert "1 pairs of near duplicates among 4 images" in printed.out
    assert "broken.png cannot be read" in printed.err
    header, row = (workdir / "duplicates.csv").read_text().splitlines()
    assert header == "similarity,image,other"
    assert "c.png" in row
    assert "copy of c.png" in row
    assert "copy of c.png" in (workdir / "neighbors.html").read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match="two images; 1 could be read"):
        run_command(
            "neighbors", [checkpoint, str(photos / "a.png"), "--workdir", str(workdir)]
        )


@pytest.mark.slow
def test_neighbors_classify(checkpoint, tmp_path, capsys):
    data = ["--set", "data.train=digits:train", "--set", "data.test=digits:test"]
    run_command(
        "knn", [checkpoint, *data, "--neighbors", "3", "--workdir", str(tmp_path)]
    )
    assert "of 360 images by the 3 nearest of 1257" in capsys.readouterr().out
    results = json.loads((tmp_path / "nearest_neighbors.json").read_text())
    assert results["of"] == checkpoint


@pytest.mark.slow
def test_robustness(checkpoint, tmp_path, capsys):
    data = ["--set", "data.test=digits:test"]
    run_command("robustness", [checkpoint, *data, "--workdir", str(tmp_path)])
    assert "25.0% of the patches" in capsys.readouterr().out
    results = json.loads((tmp_path / "robustness.json").read_text())
    grid = keras_vit.load_checkpoint(checkpoint).grid_shape
    parts = {changed_part("shuffled", grid, part) for part in PARTS}
    assert set(map(float, results["shuffled"])) == parts
    assert "<svg" in (tmp_path / "robustness.html").read_text(encoding="utf-8")
