"""Answers of the server to valid requests."""

import base64
import json
import pathlib
import re

import numpy as np
import pytest

from tests.cases import array
from tests.serve.served import LABELS, b64, close, file, huge_png, pixels

pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]


def test_rows_and_columns(server, model):
    images = pixels(3)
    expected = array(model(model.preprocessor(images)))
    rows = images.tolist()
    for signature in (None, "", "serving_default", "predict_uint8"):
        name = {} if signature is None else {"signature_name": signature}
        for instances in (rows, [{"images": row} for row in rows]):
            status, answer = server.predict({**name, "instances": instances})
            assert (status, list(answer)) == (200, ["predictions"])
            assert [set(p) for p in answer["predictions"]] == [
                {"probabilities", "logits"}
            ] * 3
            close([p["probabilities"] for p in answer["predictions"]], expected)
        for inputs in (rows, {"images": rows}):
            status, answer = server.predict({**name, "inputs": inputs})
            assert (status, list(answer)) == (200, ["outputs"])
            assert set(answer["outputs"]) == {"probabilities", "logits"}
            close(answer["outputs"]["probabilities"], expected)


def test_files(server, model):
    images = [pixels(1, 20 + i, 33 - i, seed=i)[0] for i in range(3)]
    files = [file(image) for image in images]
    files.insert(1, files[0][:-30])
    expected = np.concatenate(
        [array(model(model.preprocessor(image[None]))) for image in images]
    )
    instances = [b64(content) for content in files]
    by_name = [{"image_bytes": instance} for instance in instances]
    for request in (instances, by_name):
        status, answer = server.predict(
            {"signature_name": "predict_bytes", "instances": request}
        )
        assert status == 200
        predictions = answer["predictions"]
        assert [p["error"] for p in predictions] == [0, 1, 0, 0]
        bad = predictions.pop(1)
        assert (bad["labels"], bad["classes"], bad["scores"]) == (
            ["", ""],
            [-1, -1],
            [0, 0],
        )
        close([p["probabilities"] for p in predictions], expected)
        best = [[LABELS[c] for c in row] for row in np.argsort(-expected)[:, :2]]
        assert [p["labels"] for p in predictions] == best
    for inputs in (instances, {"image_bytes": instances}):
        request = {"signature_name": "predict_bytes", "inputs": inputs}
        status, answer = server.predict(request, "/v1/models/vit/versions/3:predict")
        assert status == 200
        assert answer["outputs"]["error"] == [0, 1, 0, 0]
        assert answer["outputs"]["labels"][2] == best[1]
    # Some programs wrap base64 into lines.
    wrapped = {"b64": base64.encodebytes(files[0]).decode().rstrip("=\n")}
    request = {"signature_name": "predict_bytes", "instances": [wrapped]}
    assert server.predict(request)[1]["predictions"][0]["labels"] == best[0]


def test_images_that_are_all_refused(server):
    broken = b64(file(pixels(1)[0])[:-30])
    request = {"signature_name": "predict_bytes", "instances": [broken, b64(huge_png())]}
    assert server.predict(request) == (
        400,
        {
            "error": "No image could be read: image 0 cannot be decoded; "
            "image 1 has too many pixels."
        },
    )


def test_attention(server):
    request = {"signature_name": "attention", "instances": [b64(file(pixels(1)[0]))]}
    status, answer = server.predict(request)
    assert status == 200
    (prediction,) = answer["predictions"]
    assert np.shape(prediction["attention"]) == (2, 3)
    assert 0 < np.sum(prediction["attention"]) < 1
    assert prediction["crop_fraction"] == pytest.approx(0.9)


def test_status_and_metadata(server):
    status = {
        "model_version_status": [
            {
                "version": "3",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }
    assert server.get("/v1/models/vit") == (200, status)
    assert server.get("/v1/models/vit/versions/3") == (200, status)
    code, metadata = server.get("/v1/models/vit/metadata")
    assert (code, metadata) == server.get("/v1/models/vit/versions/3/metadata")
    assert metadata["model_spec"] == {
        "name": "vit",
        "signature_name": "",
        "version": "3",
    }
    signatures = metadata["metadata"]["signature_def"]["signature_def"]
    assert signatures["predict_bytes"]["method_name"] == "tensorflow/serving/predict"
    description = signatures["predict_bytes"]["inputs"]["image_bytes"]
    assert description["dtype"] == "DT_STRING"
    assert description["tensor_shape"] == {
        "dim": [{"size": "-1", "name": ""}],
        "unknown_rank": False,
    }
    assert server.ask("GET", "/healthz")[0] == 200
    text = server.ask("GET", "/monitoring/prometheus/metrics")[2].decode()
    assert re.search(r'^requests_total\{status="200"\} \d', text, re.MULTILINE)
    assert re.search(r"^process_resident_memory_bytes \d", text, re.MULTILINE)


def test_a_client_of_tf_serving_finds_no_other_model(server):
    request = json.dumps({"instances": pixels(1).tolist()})
    for path in ("vit2", "vit/versions/2", "vit/versions/" + "9" * 5000):
        status, answer = server.predict(request, f"/v1/models/{path}:predict")
        assert status == 404
        assert "Servable not found for request" in answer["error"]
        assert server.get(f"/v1/models/{path}")[0] == 404
    for method, path in [
        ("POST", "/v1/models/vit:classify"),
        ("GET", "/v1/models/vit:predict"),
        ("POST", "/v1/models/vit/labels/x:predict"),
        ("GET", "/v1/models"),
    ]:
        status, _, body = server.ask(method, path, "{}")
        message = {"error": f"Malformed request: {method} {path}"}
        assert (status, json.loads(body)) == (400, message)
    assert server.get("/nowhere")[0] == 404


def test_the_highest_version_that_loads_is_served(server, exported):
    assert server.announced.startswith("Serving vit, version 3: ")
    warnings = re.findall("warning: (.*) is not served: (.*)", server.log())
    names = [pathlib.Path(path).name for path, _ in warnings]
    assert set(names[:4]) == {"03", "007", "\u0667", "\u00b2"}
    assert names[4:] == ["6", "5"]
    assert "without leading zeros; rename the directory" in warnings[0][1]
    assert all(len(reason) > 20 for _, reason in warnings)


def test_load(server, tmp_path, capsys):
    from recipes import serve_load

    images = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(images):
        path.write_bytes(file(pixels(1, seed=i)[0]))
    url = f"http://127.0.0.1:{server.port}"
    arguments = [url, "vit", *map(str, images), "--seconds", "0.5", "--clients", "1", "8"]
    serve_load.main(arguments)
    rows = [row.split("|")[1:-1] for row in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0].strip() for row in rows] == ["1 at once", "8 at once"]
    for _, requests, errors, p50, p99, rate in rows:
        assert int(requests) >= 1
        assert int(errors) == 0
        assert 0 < float(p50) <= float(p99)
        assert float(rate) > 0
