"""Answers of a server whose model has no classifier."""

import numpy as np
import pytest

from tests.cases import array
from tests.serve.served import b64, close, file, pixels

pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]


def test_features_of_files(features_server, headless):
    model = headless.model
    images = [pixels(1, 20 + i, 33 - i, seed=i)[0] for i in range(3)]
    expected = np.concatenate(
        [array(model(model.preprocessor(image[None]))) for image in images]
    )
    instances = [b64(file(image)) for image in images]
    instances.insert(1, b64(b"no image"))

    def ask(signature, instances):
        request = {"signature_name": signature, "instances": instances}
        return features_server.predict(request, features_server.path)

    for signature, names in (
        ("embed", {"pooled", "error"}),
        ("features_bytes", {"pooled", "tokens", "error"}),
    ):
        status, answer = ask(signature, instances)
        assert status == 200
        predictions = answer["predictions"]
        assert all(set(prediction) == names for prediction in predictions)
        assert [prediction["error"] for prediction in predictions] == [0, 1, 0, 0]
        refused = predictions.pop(1)
        assert set(refused["pooled"]) == {0.0}
        close([prediction["pooled"] for prediction in predictions], expected)
    assert np.shape(predictions[0]["tokens"]) == (*model.grid_shape, 16)
    assert ask("embed", instances[1:2]) == (
        400,
        {"error": "No image could be read: image 0 cannot be decoded."},
    )
    status, answer = ask("predict_bytes", instances)
    assert status == 400
    assert '"predict_bytes" not found' in answer["error"]
    assert "the model has attention, embed, features" in answer["error"]


def test_features_of_pixels(features_server, headless):
    images = pixels(2)
    expected = array(headless.model(headless.model.preprocessor(images)))
    request = {"inputs": images.tolist()}
    status, answer = features_server.predict(request, features_server.path)
    assert (status, set(answer["outputs"])) == (200, {"pooled", "tokens"})
    close(answer["outputs"]["pooled"], expected)


def test_the_metadata_of_features(features_server):
    code, metadata = features_server.get("/v1/models/features/metadata")
    assert code == 200
    assert metadata["model_spec"]["name"] == "features"
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert set(signatures["embed"]["outputs"]) == {"pooled", "error"}
    assert signatures["embed"]["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
    sizes = signatures["embed"]["outputs"]["pooled"]["tensor_shape"]["dim"]
    assert [size["size"] for size in sizes] == ["-1", "16"]
