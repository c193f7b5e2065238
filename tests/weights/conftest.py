"""Fixtures of downloads, which never leave the machine."""

import threading

import pytest

from tests.weights.download_server import Server


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    # No server listens on this port, in case a test does not set a mirror.
    monkeypatch.setenv("KERAS_VIT_MIRROR", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home" / "keras_vit"


@pytest.fixture
def mirror(server, monkeypatch):
    monkeypatch.setenv("KERAS_VIT_MIRROR", server.url + "/")
    return server
