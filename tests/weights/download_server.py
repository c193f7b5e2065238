"""Web server of checkpoints on the loopback interface."""

import contextlib
import dataclasses
import hashlib
import http.client
import http.server

from keras_vit.weights import registry

NAME = "vit_h14.orig_in21k_224"


PATH = "/vit_models/imagenet21k/ViT-H_14.npz"


CONTENT = bytes(range(256)) * 20_000  # 5 MB, which take several reads.


SHA256 = hashlib.sha256(CONTENT).hexdigest()


def etag(content):
    return f'"{hashlib.md5(content).hexdigest()}"'


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def end_headers(self):
        # Each response ends its connection. A client that is not told may send its next
        # request into the closed connection.
        self.send_header("Connection", "close")
        super().end_headers()

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, dict(self.headers)))
        if server.gate:
            server.gate.wait(30)
        if server.gated and self.path.startswith(server.gated):
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path in server.redirects:
            self.send_response(302)
            for header in server.redirects[self.path].items():
                self.send_header(*header)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if server.status != 200 or self.path not in server.files:
            self.send_error(server.status if server.status != 200 else 404)
            return
        content, start = server.files[self.path], 0
        if (
            server.ranges
            and "Range" in self.headers
            and self.headers["If-Range"] == etag(content)
        ):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            shown = f"bytes {start + server.shift}-{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", shown)
        if server.length:
            self.send_header("Content-Length", str(len(content) - start))
        for header in {"ETag": etag(content), **server.headers}.items():
            self.send_header(*header)
        self.end_headers()
        cut = server.cuts.pop(0) if server.cuts else None
        if self.command == "GET":
            with contextlib.suppress(ConnectionError):  # The client may disconnect.
                self.wfile.write(content[start:][:cut])


class Server(http.server.ThreadingHTTPServer):
    """Web server for `files` that cuts off its first responses after `cuts` bytes."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {PATH: CONTENT}
        self.headers, self.redirects, self.requests, self.cuts = {}, {}, [], []
        self.status, self.ranges, self.length, self.gate = 200, True, True, None
        self.shift, self.gated = 0, ""
        self.url = f"http://127.0.0.1:{self.server_port}"


def cached(cache):
    """Return the names of all files in the cache except locks."""
    return sorted(file.name for file in cache.iterdir() if file.suffix != ".lock")


def expect(monkeypatch, **fields):
    row = dataclasses.replace(registry.published_checkpoints()[NAME], **fields)
    monkeypatch.setitem(registry.published_checkpoints(), NAME, row)


def leave_part(cache, content, version):
    cache.mkdir(parents=True)
    (cache / f"{NAME}.npz.part").write_bytes(content)
    if version:
        (cache / f"{NAME}.npz.version").write_text(version)
