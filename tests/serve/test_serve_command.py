"""The command `keras-vit serve`: its arguments, and its stop by a signal."""

import json
import os
import socket
import subprocess
import sys

import pytest

from tests.commands import run_command
from tests.serve.served import ROOT, Served, b64, file, pixels

pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]


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


@pytest.mark.slow
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
        ([exported, "--deadline", "0"], "must be more than 0"),
    ]:
        process = subprocess.run(
            [sys.executable, "-m", "keras_vit", "serve", *map(str, arguments)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert process.returncode == 2
        assert message in process.stderr


def test_a_missing_library_names_the_extra(exported, monkeypatch):
    for name in ("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "TF_NUM_INTEROP_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))  # Restored after the test.
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "keras_vit.serve.server", raising=False)
    with pytest.raises(SystemExit, match=r"pip install 'keras_vit\[serve\]'"):
        run_command("serve", [str(exported)])
