"""The recipe that measures models with fewer tokens."""

import json

import keras
import numpy as np
import pytest

from keras_vit.data import open_source
from keras_vit.layers import Preprocessor, TokenHalting
from recipes.fewer_tokens import arrays, drawn, main
from tests.cases import perturb, tiny_vit

pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]
pytest.importorskip("sklearn", reason="has the digits")

TEST = ("--set", "data.test=digits:test")
VALIDATION = ("--set", "data.validation=digits:validation")
QUICK = ("--batch", "4", "--rounds", "1")


def saved(path, **arguments):
    model = tiny_vit(
        input_shape=(8, 8, 1), patch_size=2, classes=10, pooling="token", **arguments
    )
    perturb(model)
    model.save(path)
    return str(path)


@pytest.fixture
def plain(tmp_path):
    return saved(tmp_path / "plain.keras")


@pytest.fixture
def stopping(tmp_path):
    return saved(tmp_path / "stopping.keras", token_reduction=TokenHalting(center=0.0))


@pytest.fixture
def by_class(tmp_path):
    """Return a folder whose images are sorted by their four classes."""
    image_module = pytest.importorskip("PIL.Image", reason="writes images")
    for label in range(4):
        (tmp_path / "folder" / f"class_{label}").mkdir(parents=True)
        for number in range(25):
            pixels = np.full((8, 8), 50 * label + number, "uint8")
            path = tmp_path / "folder" / f"class_{label}" / f"{number}.png"
            image_module.fromarray(pixels).save(path)
    return f"folder:{tmp_path / 'folder'}"


def test_images_are_drawn_from_all_classes(by_class, capsys):
    source = open_source(by_class)
    model = tiny_vit(input_shape=(8, 8, 1), patch_size=4)
    model.preprocessor = Preprocessor(0.0, 1.0, (8, 8))
    images, labels = arrays(model, source, 20)
    assert "20 of 100 images of folder:" in capsys.readouterr().out
    assert images.shape == (20, 8, 8, 1)
    assert set(labels) == {0, 1, 2, 3}
    np.testing.assert_array_equal(images.mean(axis=(1, 2, 3)) // 50, labels)
    again, _ = arrays(model, source, 20)
    np.testing.assert_array_equal(images, again)
    assert drawn(source, 100) is source
    assert len(arrays(model, source, 1000)[0]) == 100


def test_merging(plain, tmp_path, capsys):
    words = [plain, *TEST, *QUICK, "--workdir", str(tmp_path / "results")]
    main([*words, "--merge", "2", "--baseline", plain, "--images", "50"])
    assert "50 of 360 images of digits:test" in capsys.readouterr().out
    path = tmp_path / "results" / "fewer_tokens.json"
    results = json.loads(path.read_text())
    assert results["images"] == 50
    assert list(results["variants"]) == ["original", "model", "merge 2"]
    accuracies = [row["accuracy"] for row in results["variants"].values()]
    assert accuracies[0] == accuracies[1]


def test_stopping(stopping, plain, tmp_path):
    words = [stopping, *TEST, *VALIDATION, *QUICK, "--images", "50"]
    main([*words, "--baseline", plain, "--workdir", str(tmp_path / "results")])
    results = json.loads((tmp_path / "results" / "fewer_tokens.json").read_text())
    assert list(results["variants"]) == ["original", "masked", "quantile 1"]


def test_a_head_for_all_classes(by_class, tmp_path):
    model = tiny_vit(include_top=False, pooling="token")
    model.save(tmp_path / "headless.keras")
    words = [str(tmp_path / "headless.keras"), *QUICK, "--fit-head", "30"]
    words += ["--set", f"data.train={by_class}", "--set", f"data.test={by_class}"]
    words += ["--set", f"data.validation={by_class}", "--image-size", "16"]
    main([*words, "--workdir", str(tmp_path / "results")])
    results = json.loads((tmp_path / "results" / "fewer_tokens.json").read_text())
    # The four brightnesses are easy to tell apart.
    assert results["variants"]["original"]["accuracy"] > 0.5


@pytest.mark.slow
def test_a_baseline_takes_the_same_images(plain, tmp_path):
    other = keras.saving.load_model(plain).resized((16, 16, 1))
    other.save(tmp_path / "other.keras")
    words = [plain, *TEST, *QUICK, "--baseline", str(tmp_path / "other.keras")]
    with pytest.raises(SystemExit, match="must take the same images: it has input_shape"):
        main([*words, "--merge", "2"])


def test_what_does_not_apply_is_refused(plain, stopping):
    with pytest.raises(SystemExit, match=r"error: data\.test is not set: add --set"):
        main([plain])
    with pytest.raises(SystemExit, match=r"--quantiles 0\.9: the tokens of .* do not st"):
        main([plain, *TEST, "--quantiles", "0.9"])
    with pytest.raises(SystemExit, match=r"--merge 2 4: the tokens of .* stop, and"):
        main([stopping, *TEST, "--merge", "2", "4"])
    with pytest.raises(SystemExit, match=r"error: data\.validation is not set"):
        main([stopping, *TEST])
