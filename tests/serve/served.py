"""Server in its own process, and the images that tests send to it."""

import base64
import contextlib
import http.client
import io
import json
import os
import pathlib
import re
import struct
import subprocess
import sys
import tempfile
import zlib

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image", reason="makes the pictures")
for package in ("orjson", "prometheus_client", "starlette", "uvicorn"):
    pytest.importorskip(package, reason="the extra `serve`")

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
        self.port = int(re.search(r":(\d+) \(Ctrl-C", self.announced)[1])
        self.path = f"/v1/models/{pathlib.Path(directory).name}:predict"

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


def hundred_megabytes(server, chunked):
    blocks = (b"[" * 2**20 for _ in range(100))
    headers = {} if chunked else {"Content-Length": str(100 * 2**20)}
    return server.ask("POST", "/v1/models/vit:predict", blocks, headers)[0]
