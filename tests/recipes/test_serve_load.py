"""The load test, against servers that fail."""

import http.server
import threading

import pytest

from recipes import serve_load

pytestmark = pytest.mark.any_backend


class Handler(http.server.BaseHTTPRequestHandler):
    """Server that answers every second request, and no request for `absent`."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.count += 1
        fails = self.server.count % 2 or "absent" in self.path
        self.send_response(503 if fails else 200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"answer")

    def log_message(self, *arguments):
        pass


@pytest.fixture
def url():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.count = 0
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(b"pixels")
    return str(path)


def test_only_successes_count(url):
    load = serve_load.Load(url, "vit", [b"pixels"])
    load.run(1, 0.2)
    assert 0 <= len(load.errors) - len(load.seconds) <= 1
    assert load.errors[0] == "503 Service Unavailable: answer"


def test_nothing_succeeds(url, image):
    reason = r"http://.*/v1/models/absent:predict answered no request: 503 Service"
    with pytest.raises(SystemExit, match=reason):
        serve_load.main([url, "absent", image, "--seconds", "0.1", "--clients", "2"])


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        # No server listens on port 9, the service `discard`.
        ("http://127.0.0.1:9", "predict answered no request: ConnectionRefusedError"),
        ("http://127.0.0.1:port", "predict answered no request: InvalidURL"),
    ],
)
def test_no_server(server, reason, image):
    with pytest.raises(SystemExit, match=reason):
        serve_load.main([server, "vit", image, "--seconds", "0.1"])


@pytest.mark.parametrize("server", ["127.0.0.1:8501", "https://127.0.0.1", "localhost"])
def test_other_addresses_are_refused(server, image, capsys):
    with pytest.raises(SystemExit, match="2"):
        serve_load.main([server, "vit", image])
    assert f"must be http://HOST:PORT; received '{server}'" in capsys.readouterr().err
