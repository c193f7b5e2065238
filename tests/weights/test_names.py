"""Loading of published checkpoints by name from a mirror."""

import functools
import http.server
import json
import threading

import numpy as np
import pytest

import keras_vit
from keras_vit.weights import registry
from tests.golden import Golden


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(autouse=True)
def mirror(tmp_path, monkeypatch):
    directory = tmp_path / "mirror"
    handler = functools.partial(Quiet, directory=directory)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KERAS_VIT_MIRROR", f"http://127.0.0.1:{server.server_port}")
    yield directory
    server.shutdown()
    thread.join()
    server.server_close()


def publish(mirror, name, golden, monkeypatch):
    """Serve a golden on the mirror as the file of a published checkpoint."""
    row = registry.published_checkpoints()[name]
    monkeypatch.setitem(
        registry.published_checkpoints(),
        name,
        registry.dataclasses.replace(row, sha256=None),
    )
    path = mirror / row.url.split("/", 3)[3]
    path.parent.mkdir(parents=True)
    path.write_bytes(golden.path.read_bytes())


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize(
    ("name", "golden_name"),
    [
        ("vit_b16.augreg_in21k_ft_in1k_384", "google_token"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("vit_s16.deit3_in1k_224", "timm_deit3"),
                ("vit_b16.deit_distilled_in1k_384", "timm_deit_distilled"),
                ("t2t_vit_14.orig_in1k_224", "t2t_performer"),
            )
        ),
    ],
)
def test_a_name_brings_its_preprocessing(mirror, monkeypatch, name, golden_name):
    golden = Golden(golden_name)
    publish(mirror, name, golden, monkeypatch)
    model = keras_vit.load_checkpoint(
        name, **golden.overrides, classifier_activation=None
    )
    logits = model.predict(golden.inputs, verbose=0)
    np.testing.assert_allclose(logits, golden.outputs, rtol=0, atol=1e-4)
    row = keras_vit.checkpoints()[name]
    preprocessor = model.preprocessor
    assert preprocessor.resize == row.resize
    assert preprocessor.crop_fraction == row.crop_fraction
    assert preprocessor.image_size == golden.input_shape[:2]
    if row.normalization == "imagenet":
        np.testing.assert_allclose(preprocessor.mean, [123.675, 116.28, 103.53])
    else:
        assert preprocessor.mean == preprocessor.std == 127.5
    given = type(model).from_config(
        {**model.get_config(), "preprocessor": None, "weights": name}
    )
    assert given.preprocessor.get_config() == preprocessor.get_config()


def test_a_path_of_that_name_is_the_file(mirror, tmp_path, monkeypatch):
    """Check that the preprocessing of the registry is not used for a user's own file."""
    golden = Golden("google_token")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vit_b16.augreg_in21k_ft_in1k_384.npz").write_bytes(
        golden.path.read_bytes()
    )
    keras_vit.load_checkpoint("vit_b16.augreg_in21k_ft_in1k_384.npz", **golden.overrides)
    assert not (tmp_path / "home" / "keras_vit").exists()


def test_a_name_that_is_not_there(mirror):
    mirror.mkdir()
    with pytest.raises(OSError, match=r"vit_b16\.dino_in1k_224"):
        keras_vit.load_checkpoint("vit_b16.dino_in1k_224")
    with pytest.raises(ValueError, match=r"vit_b16\.dino_in1k_224"):
        keras_vit.ViTB16(weights="vit_b16.dino_in1k_24")


def test_the_preprocessing_of_a_transformers_directory(tmp_path):
    """Check that a resize to 256 and a crop to 224 become a crop fraction of 7 / 8."""
    golden = Golden("hf_deit")
    (tmp_path / "model.safetensors").write_bytes(golden.path.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(golden.config))
    config = {
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
        "size": {"shortest_edge": 64},
        "do_center_crop": True,
        "crop_size": {"height": 56, "width": 56},
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    model = keras_vit.load_checkpoint(tmp_path, input_shape=(32, 48, 3))
    assert model.preprocessor.crop_fraction == 56 / 64
    assert model.preprocessor.resize == "bicubic_antialias"
    np.testing.assert_allclose(model.preprocessor.mean, [123.675, 116.28, 103.53])
