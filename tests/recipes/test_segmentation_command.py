"""The whole segmentation command, from a folder of masks to a SavedModel."""

import json

import numpy as np
import pytest

from tests.cases import array, tiny_vit

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]


@pytest.mark.parametrize(
    "options", [["linear", "--cache"], ["mask_transformer", "--no-freeze"]]
)
def test_the_command(options, tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn", reason="has the digits")
    import keras
    import tensorflow as tf

    from recipes import digits_on_photographs, segmentation

    backbone = tiny_vit(
        input_shape=(32, 32, 3), patch_size=4, hidden_dim=64, include_top=False
    )
    backbone.save(tmp_path / "vit.keras")
    data = {}
    for part, count in (("train", 16), ("test", 8)):
        examples = digits_on_photographs.digits(None, count, 32, part)
        digits_on_photographs.write(examples, tmp_path / part)
        data[part] = f"folder:{tmp_path / part}"
    words = ["--checkpoint", tmp_path / "vit.keras", "--head", *options]
    words += ["--data", data["train"], "--test-data", data["test"], "--size", 32]
    words += ["--epochs", 2, "--workdir", tmp_path / "run"]
    monkeypatch.setattr("sys.argv", ["segmentation", *map(str, words)])
    segmentation.main()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert f"mIoU {100 * results['miou']:.1f} %" in capsys.readouterr().out
    assert (tmp_path / "run" / "predictions.png").read_bytes().startswith(b"\x89PNG")
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    pixels = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype("float32")
    expected = array(model(model.preprocessor(pixels))).argmax(-1)
    served = tf.saved_model.load(tmp_path / "run" / "saved_model")
    assert np.mean(served.serve(pixels).numpy() == expected) > 0.999
