import asyncio
import base64
import contextlib
import http.client
import io
import json
import os
import pathlib
import random
import re
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zlib

import numpy as np
import pytest

from tests.cases import array

Image = pytest.importorskip("PIL.Image", reason="makes the pictures")
for package in ("orjson", "prometheus_client", "starlette", "uvicorn"):
    pytest.importorskip(package, reason="the extra `serve`")
pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]

ROOT = pathlib.Path(__file__).parents[2]
LABELS = ["cat", "dog", "T-shirt", "crème brûlée", "owl"]
MAX_BODY, MAX_INSTANCES, MAX_WAITING, TIMEOUT = 2_000_000, 40, 40, 1.5


class Served:
    """Server in its own process."""

    def __init__(self, directory, *arguments):
        command = [sys.executable, "-m", "keras_vit", "serve", directory, "--port", "0"]
        # libjpeg logs a line for many images, which would fill up an unread pipe.
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [*map(str, command), *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self.announced = self.process.stdout.readline()
        if not self.announced:
            raise AssertionError(self.log())
        self.port = int(re.search(r":(\d+)$", self.announced)[1])

    def ask(self, method, path, body=None, headers={}):  # noqa: B006
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    def get(self, path):
        status, _, body = self.ask("GET", path)
        return status, json.loads(body)

    def predict(self, request, path="/v1/models/vit:predict"):
        body = request if isinstance(request, str | bytes) else json.dumps(request)
        status, headers, answer = self.ask("POST", path, body)
        assert headers["Content-Type"] == "application/json"
        return status, json.loads(answer)

    def megabytes(self):
        """Return the resident memory of the server and its children in MB."""
        total = 0
        for path in pathlib.Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):  # The process may have ended.
                lines = r"^(Pid|PPid|VmRSS):\s+(\d+)"
                found = dict(re.findall(lines, path.read_text(), re.M))
                if str(self.process.pid) in (found["Pid"], found["PPid"]):
                    total += int(found.get("VmRSS", 0))
        return total / 1024

    def stop(self):
        self.process.terminate()
        try:
            code = self.process.wait(60)
        finally:
            self.process.kill()
            self.process.stdout.close()
        # The log must not contain errors other than warnings.
        wrong = r"^(?!warning: ).*(?:Error|Exception|Traceback).*$"
        found = re.findall(wrong, self.log(), re.M)
        self.errors.close()
        return code, found

    def log(self):
        self.errors.seek(0)
        return self.errors.read()


def pixels(count, height=20, width=33, seed=0):
    shape = (count, height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape, "uint8")


def file(image, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind)
    return stream.getvalue()


def b64(content):
    return {"b64": base64.b64encode(content).decode()}


def huge_png(side=2**20):
    """Return a small PNG that declares 2**20 by 2**20 pixels."""

    def chunk(kind, data):
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    image = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + image + chunk(b"IEND", b"")


def close(served, expected):
    np.testing.assert_allclose(served, expected, rtol=0, atol=1e-4)


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


def asked(server, lines, body=b""):
    """Send a request with a given head; return the status and the error."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        head, _, body = b"".join(iter(lambda: connection.recv(4096), b"")).partition(
            b"\r\n\r\n"
        )
    return int(head.split()[1]), json.loads(body)["error"]


POST = "POST /v1/models/vit:predict HTTP/1.1"
PLAIN = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("headers", "status", "message"),
    [
        (["Host: evil.example"], 403, "evil.example.*--allow-host"),
        (["Host: 127.0.0.1.evil.example:80"], 403, "--allow-host"),
        (["Host: localhost@evil.example"], 403, "--allow-host"),
        (["Host: localhost:x"], 403, "--allow-host"),
        (["Host:"], 403, "--allow-host"),
        (["Host: localhost", "Origin: http://evil.example"], 403, "evil.example"),
        (["Host: localhost", "Origin: null"], 403, "null"),
        (["Host: localhost:8501", "Origin: http://localhost:3000"], 403, "3000"),
        (["Host: localhost", "Content-Type: text/plain"], 415, "application/json"),
        (["Host: a.example", f"Content-Type: {PLAIN}"], 400, "JSON Parse error"),
        (
            ["Host: localhost", f"Content-Type: {PLAIN}", "Sec-Fetch-Site: cross-site"],
            415,
            "application/json",
        ),
        (["Host: localhost", "Content-Type: Multipart/Form-Data; x=y"], 415, "multipart"),
        (["Host: [::1]:80", "Content-Type: application/json"], 400, "JSON Parse error"),
        (["Host: A.example.", "Origin: https://a.example"], 400, "JSON Parse error"),
        (["Host: localhost:9", "Origin: http://localhost:9"], 400, "JSON Parse error"),
    ],
)
def test_pages_of_other_sites_are_refused(server, headers, status, message):
    lines = [POST, *headers, "Connection: close", "Content-Length: 1"]
    received, error = asked(server, lines, b"{")
    assert received == status
    assert re.search(message, error), error


@pytest.mark.parametrize(
    "lengths",
    [
        ["Content-Length: 2", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 0"],
        ["Content-Length: abc"],
        ["Content-Length: -1"],
        ["Content-Length: +2"],
        ["Content-Length: 2", "Content-Length: 3"],
        ["Content-Length: 2, 3"],
        [f"Content-Length: {'9' * 5000}"],
        ["Content-Length: \xb2"],
    ],
)
def test_a_body_has_one_length(server, lengths):
    status, error = asked(server, [POST, "Host: localhost", *lengths], b"{}")
    assert status == 400
    assert error
    assert server.ask("GET", "/healthz")[0] == 200


DEEP = b'{"instances": ' + b"[" * 500_000


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ("", "JSON Parse error"),
        ("{", "JSON Parse error"),
        ("[]", "must be an object"),
        (b'{"instances": "\xff"}', "JSON Parse error"),
        ('{"instances": ["\\ud800"]}', "JSON Parse error"),
        (DEEP, "JSON Parse error"),
        (DEEP + b"]" * 500_000 + b"}", "JSON Parse error"),
        ('{"instances": ' + "[" * 900 + "]" * 900 + "}", "must have shape"),
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"inputs": [], "instances": []}, "Only one of 'inputs' and 'instances'"),
        ({"instances": []}, "at least one value"),
        ({"instances": {}}, "at least one value"),
        ({"inputs": {}}, "Missing named input: images"),
        ({"inputs": {"b64": 3}}, "Missing named input: images"),
        ({"inputs": []}, r"must have shape \(any, any, any, 3\).*received \(0\)"),
        ({"inputs": None}, r"received \(\)"),
        ({"instances": [], "signature_name": 3}, "must be a string value"),
        ({"instances": [], "signature_name": "x"}, '"x" not found.*predict_uint8'),
        ({"instances": [{"pixels": 3}]}, "Element 0 .* the keys images"),
        ({"instances": [{"images": [[[0, 0, 0]]]}, 3]}, "Element 1 "),
        ({"instances": [[[[0, 0, 0]]], {"images": 3}]}, "differ in length or depth"),
        ({"instances": [[[[0, 0, 0], [0, 0]]]]}, "differ in length or depth"),
        ({"instances": [[[[0, 0, [0]]]]]}, "differ in length or depth"),
        ({"instances": [[[[0, 0]]]]}, r"received \(1, 1, 1, 2\)"),
        ({"instances": [[[]]]}, r"received \(1, 1, 0\)"),
        ({"instances": [[[[0, 0, "0"]]]]}, "expected type: float32; received str"),
        ({"instances": [[[[0, 0, True]]]]}, "received bool"),
        ({"instances": [[[[0, 0, None]]]]}, "received null"),
        ({"instances": [[[[0, 0, {}]]]]}, "received object"),
        ('{"instances": [[[[0, 0, NaN]]]]}', "JSON Parse error"),
        ('{"instances": [[[[0, 0, 1e999]]]]}', "JSON Parse error"),
        ({"instances": [[[[0, 0, 1e39]]]]}, "out of the range of float32"),
        (
            {"signature_name": "predict_uint8", "instances": [[[[0, 0, 256]]]]},
            "out of range",
        ),
        (
            {"signature_name": "predict_uint8", "instances": [[[[0, 0, 1.5]]]]},
            "expected type: uint8; received float",
        ),
        (
            {"signature_name": "predict_bytes", "instances": [3]},
            "type: string; rec.* int",
        ),
        (
            {"signature_name": "predict_bytes", "instances": [{"b64": "?"}]},
            "Unable to base64 decode",
        ),
        (
            {"signature_name": "predict_bytes", "inputs": [{"b64": "", "x": 1}]},
            "must be {.b64",
        ),
        (
            {"signature_name": "predict_bytes", "instances": [[{"b64": ""}]]},
            r"must have shape \(any\)",
        ),
        (
            {"signature_name": "predict_bytes", "instances": ["x"] * (MAX_INSTANCES + 1)},
            f"1 to {MAX_INSTANCES} instances; received {MAX_INSTANCES + 1}",
        ),
        ({"signature_name": "predict_bytes", "inputs": []}, "received 0"),
        ({"inputs": np.zeros((1, 1, 120_000, 3), int).tolist()}, "1 to 33554432 pixels"),
    ],
)
def test_bad_requests(server, request_, message):
    status, answer = server.predict(request_)
    assert status == 400
    assert re.search(message, answer["error"]), answer["error"]
    assert len(answer["error"]) < 1000


def test_a_large_body_is_refused_before_it_is_read(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest("POST", "/v1/models/vit:predict")
    connection.putheader("Content-Length", str(10**8))
    connection.endheaders()
    response = connection.getresponse()  # No body has been sent yet.
    assert response.status == 413
    assert str(MAX_BODY) in json.loads(response.read())["error"]
    connection.close()


def hundred_megabytes(server, chunked):
    blocks = (b"[" * 2**20 for _ in range(100))
    headers = {} if chunked else {"Content-Length": str(100 * 2**20)}
    return server.ask("POST", "/v1/models/vit:predict", blocks, headers)[0]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_hundred_megabytes(server, chunked):
    assert hundred_megabytes(server, chunked) == 413


def stalled(server, sent=b"{"):
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    head = f"{POST}\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n".encode()
    connection.sendall(head + sent)
    return connection


def test_bodies_that_do_not_come(server):
    connections = [stalled(server) for _ in range(2 * MAX_WAITING)]
    time.sleep(0.2)
    request = json.dumps({"instances": pixels(1).tolist()})
    assert server.predict(request)[0] == 200
    assert server.ask("GET", "/healthz")[0] == 200
    for connection in connections:
        answer = b""
        while received := connection.recv(4096):
            answer += received
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"did not arrive in 1.5 seconds" in answer
        connection.close()
    assert server.predict(request)[0] == 200
    for sent in (b"", b"{"):  # The client disconnects.
        stalled(server, sent).close()
    assert server.predict(request)[0] == 200


LOAD = """
import http.client, json, sys, threading, time
port, threads, body = int(sys.argv[1]), int(sys.argv[2]), sys.stdin.read()
answered, lost, closed = [], [], []

def client(keeps):
    connection = None
    while True:
        try:
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                connection.connect()
        except ConnectionRefusedError:
            closed.append(1)
            return
        try:
            connection.request("POST", "/v1/models/vit:predict", body)
            response = connection.getresponse()
            response.read()
        except Exception as error:
            lost.append(repr(error))
            return
        (answered if response.status == 200 else lost).append(response.status)
        if len(answered) == 2 * threads:
            print("running", flush=True)
        if not keeps or response.will_close:
            connection.close()
            connection = None

all_threads = [threading.Thread(target=client, args=(i % 2,)) for i in range(threads)]
for thread in all_threads: thread.start()
for thread in all_threads: thread.join()
print(json.dumps({"answered": len(answered), "lost": lost, "closed": len(closed)}))
"""


def test_a_stop_loses_no_request(exported):
    server = Served(exported, "--name", "vit")
    body = {"signature_name": "predict_bytes", "instances": [b64(file(pixels(1)[0]))]}
    client = subprocess.Popen(
        [sys.executable, "-c", LOAD, str(server.port), "16"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    client.stdin.write(json.dumps(body))
    client.stdin.close()
    assert client.stdout.readline() == "running\n"
    idle = socket.create_connection(("127.0.0.1", server.port))
    code, errors = server.stop()
    assert (code, errors) == (0, [])
    idle.close()
    result = json.loads(client.stdout.read())
    client.wait(60)
    assert result["lost"] == []
    assert result["closed"] == 16
    assert result["answered"] >= 32


def mutated(generator):
    """Return an invalid request and the statuses that the server may answer."""
    image = file(pixels(1, seed=generator.randrange(100))[0], "JPEG")
    rows = pixels(1, 3, 4).astype(int).tolist()

    def files(*contents):
        return {"signature_name": "predict_bytes", "instances": [*map(b64, contents)]}

    def truncated():
        return files(image[: generator.randrange(200)]), {400}

    def huge():
        return files(huge_png(generator.choice([2**14, 2**20, 2**30]))), {400}

    def some_bad():
        return files(image, image[: generator.randrange(200)], huge_png()), {200}

    def noise():
        return generator.randbytes(generator.randrange(2000)), {400}

    def wrong_type():
        row, value = rows[0][1][2], [None, True, "1", {}, [], "x" * 10**5, 1e39, -1e300]
        row[generator.randrange(3)] = generator.choice(value)
        return {"inputs": rows}, {400}

    def wrong_key():
        key = generator.choice(["instances", "inputs"])
        value = generator.choice([None, 1, "x", True, {}, [], [[]], [{}], {"b64": "x"}])
        return {key: value}, {400}

    def ragged():
        del rows[0][generator.randrange(3)][generator.randrange(4)]
        return {"instances": rows}, {400}

    def deep():
        depth = generator.randrange(1000, 10**6)
        brackets = generator.choice([("[", "]"), ('{"a":', "}")])
        return '{"inputs": ' + brackets[0] * depth + brackets[1] * depth, {400, 413}

    def cut():
        text = json.dumps({"instances": rows})
        return text[: generator.randrange(len(text))], {400}

    def flipped():
        text = bytearray(json.dumps(files(image)).encode())
        for _ in range(generator.randrange(1, 10)):
            text[generator.randrange(len(text))] = generator.randrange(256)
        return bytes(text), {200, 400}

    def fine():
        return {"instances": pixels(1, *generator.choices(range(1, 50), k=2)).tolist()}, {
            200
        }

    kinds = [truncated, huge, some_bad, noise, wrong_type, wrong_key, ragged, deep]
    return generator.choice([*kinds, cut, flipped, fine])()


def mutate(server, count, generator):
    for number in range(count):
        request, statuses = mutated(generator)
        status, answer = server.predict(request)
        assert status in statuses, (number, status, str(request)[:500], answer)


def test_mutated_requests(server):
    generator = random.Random(0)
    mutate(server, 60, generator)
    before = server.megabytes()
    mutate(server, 200, generator)
    assert server.megabytes() < before + 50
    assert server.predict({"instances": pixels(1).tolist()})[0] == 200


@pytest.mark.slow
def test_ten_thousand_mutated_requests(server):
    generator = random.Random(1)
    memory = []
    for _ in range(20):
        mutate(server, 500, generator)
        assert hundred_megabytes(server, chunked=generator.random() < 0.5) == 413
        memory.append(server.megabytes())
    print("MB after each 500:", [round(value) for value in memory])
    assert memory[-1] < memory[4] + 50
    assert server.predict({"instances": pixels(1).tolist()})[0] == 200


def test_requests_together_are_run_together():
    from keras_vit.serve.batching import Batcher
    from keras_vit.serve.tensor_json import BadRequestError

    ran = []

    def run(signature, inputs):
        ran.append((signature, inputs["x"].tolist()))
        time.sleep(0.05)
        if -1 in inputs["x"]:
            raise BadRequestError("minus one")
        return {"twice": 2 * inputs["x"], "size": np.full(len(inputs["x"]), 1)}

    async def ask(batcher, values, signature="a"):
        return await batcher(signature, {"x": np.array(values)}, [0] * len(values))

    async def together():
        batcher = Batcher(run, max_batch=4, delay=0.02, max_work=100)
        requests = [[1], [2, 3], [4, 5], [6, 7, 8, 9, 10, 11], [[12]], [13]]
        names = "aaaaab"
        answers = await asyncio.gather(
            *(
                ask(batcher, values, name)
                for values, name in zip(requests, names, strict=True)
            )
        )
        assert [answer["twice"].tolist() for answer in answers] == [
            (2 * np.array(values)).tolist() for values in requests
        ]
        assert sorted(ran, key=str) == sorted(
            [
                ("a", [1, 2, 3]),
                ("a", [4, 5]),
                ("a", [6, 7, 8, 9]),
                ("a", [10, 11]),
                ("a", [[12]]),
                ("b", [13]),
            ],
            key=str,
        )
        # A failed request must not affect others in its batch.
        answers = await asyncio.gather(
            ask(batcher, [1]),
            ask(batcher, [-1]),
            ask(batcher, [2]),
            return_exceptions=True,
        )
        assert answers[0]["twice"].tolist() == [2]
        assert isinstance(answers[1], BadRequestError)
        assert answers[2]["twice"].tolist() == [4]
        assert batcher._waiting == {}

    asyncio.run(together())


def test_the_forms_of_answers():
    from keras_vit.serve.tensor_json import write_answer

    numbers = np.array([[0.1, 1.0], [2.5e-9, 3.0]], "float32")
    names = np.array([[b"a", "ü".encode()], [b"", b"\xff"]], object)
    one = {"numbers": numbers}
    assert write_answer(one, True) == b'{"predictions":[[0.1,1.0],[2.5e-9,3.0]]}'
    assert write_answer(one, False) == b'{"outputs":[[0.1,1.0],[2.5e-9,3.0]]}'
    two = {"names": names, "n": np.array([1, 2], "int32"), "n_bytes": names[:, 1]}
    assert json.loads(write_answer(two, True)) == {
        "predictions": [
            {"names": ["a", "ü"], "n": 1, "n_bytes": {"b64": "w7w="}},
            {"names": ["", "�"], "n": 2, "n_bytes": {"b64": "/w=="}},
        ]
    }
    assert json.loads(write_answer(two, False)) == {
        "outputs": {
            "names": [["a", "ü"], ["", "�"]],
            "n": [1, 2],
            "n_bytes": [{"b64": "w7w="}, {"b64": "/w=="}],
        }
    }


def test_several_inputs():
    from keras_vit.serve.tensor_json import BadRequestError, Tensor, read_request

    numbers, names = (
        Tensor((None, 2), np.dtype("int32")),
        Tensor((None,), np.dtype(object)),
    )
    signatures = {"serving_default": {"a": numbers, "b": names}}

    def read(request):
        return read_request(json.dumps(request).encode(), signatures, 4, 1000)

    rows = [{"a": [1, 2], "b": "x"}, {"b": {"b64": "/w=="}, "a": [3, 4]}]
    for request in (
        {"instances": rows},
        {"inputs": {"a": [[1, 2], [3, 4]], "b": ["x", rows[1]["b"]]}},
    ):
        inputs = read(request).inputs
        assert inputs["a"].tolist() == [[1, 2], [3, 4]]
        assert inputs["a"].dtype == np.int32
        assert inputs["b"].tolist() == [b"x", b"\xff"]
    for request, message in [
        ({"instances": [[1, 2]]}, "several inputs: send objects with the keys a, b"),
        ({"inputs": [[1, 2]]}, "several inputs"),
        ({"inputs": {"a": [[1, 2]]}}, "Missing named input: b"),
        (
            {"inputs": {"a": [[1, 2]], "b": ["x", "y"]}},
            r"different batch sizes: \[1, 2\]",
        ),
    ]:
        with pytest.raises(BadRequestError, match=message):
            read(request)


def test_a_directory_without_versions(exported, tmp_path):
    from keras_vit.serve.model import Model

    for directory in (tmp_path, exported / "3", exported / "nowhere"):
        with pytest.raises(FileNotFoundError, match="holds no version of a model"):
            Model(directory)


def test_what_the_command_refuses(exported):
    for arguments, message in [
        ([exported, "--name", "a/b"], "letters, digits"),
        ([exported, "--max-batch", "0"], "must be 1 or more"),
        ([exported, "--body-timeout", "nan"], "must be 0 or more"),
    ]:
        process = subprocess.run(
            [sys.executable, "-m", "keras_vit", "serve", *map(str, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert process.returncode == 2
        assert message in process.stderr


def test_a_missing_library_names_the_extra(exported, monkeypatch, capsys):
    from keras_vit.cli import serve

    for name in ("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # Restored after the test.
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "keras_vit.serve.server", raising=False)
    with pytest.raises(SystemExit) as stop:
        serve.main([str(exported)])
    assert stop.value.code == 1
    assert "pip install 'keras_vit[serve]'" in capsys.readouterr().err


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
