import subprocess
import sys

import numpy as np
import pytest

from keras_vit.export import saved_model
from keras_vit.export.attention import attention_rollout
from keras_vit.export.features import network_outputs
from tests.cases import array, perturb, tiny_t2t, tiny_vit
from tests.export.serving import serve
from tests.export.test_saved_model import exact_copy, pixels, png

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("tensorflow")]


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """Return a Python with the previous minor version of TensorFlow and without Keras."""
    import tensorflow as tf

    major, minor, *_ = tf.__version__.split(".")
    wanted = f"{major}.{int(minor) - 1}"
    directory = tmp_path_factory.mktemp("older")
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    python = directory / "bin" / "python"
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    install = [*pip, "install", f"tensorflow=={wanted}.*"]
    done = subprocess.run(install, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"TensorFlow {wanted} cannot be installed: {done.stderr[-300:]}")
    subprocess.run([*pip, "uninstall", "--yes", "keras"], check=True)
    return python


@pytest.mark.parametrize("tiny", [tiny_vit, tiny_t2t])
def test_an_older_tensorflow_serves_the_same(tiny, older, tmp_path):
    model = perturb(tiny())
    path = saved_model(model, tmp_path / "served", verbose=False)
    images = pixels(model, 3)
    files = [*map(png, images), b"no image"]
    requests = [
        ("serving_default", "images", images.astype("float32")),
        ("predict_uint8", "images", images),
        ("features", "images", images.astype("float32")),
        ("predict_bytes", "image_bytes", files),
        ("attention", "image_bytes", files),
    ]
    answers, _ = serve(path, requests, tmp_path, older)
    exact = exact_copy(model)
    logits = array(exact(exact.preprocessor(images)))
    for answer in answers[:2]:
        np.testing.assert_allclose(answer["logits"], logits, rtol=0, atol=1e-5)
    assert answers[3]["error"].tolist() == [0, 0, 0, 1]
    probabilities = answers[0]["probabilities"]
    served = answers[3]["probabilities"][:3]
    np.testing.assert_allclose(served, probabilities, rtol=0, atol=1e-5)
    outputs = network_outputs(exact)(exact.preprocessor(images))
    for name in ("pooled", "tokens"):
        expected = array(outputs[name])
        np.testing.assert_allclose(answers[2][name], expected, rtol=0, atol=1e-4)
    assert answers[4]["error"].tolist() == [0, 0, 0, 1]
    expected = array(attention_rollout(exact)(exact.preprocessor(images)))
    np.testing.assert_allclose(answers[4]["attention"][:3], expected, rtol=0, atol=1e-5)
