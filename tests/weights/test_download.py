"""Downloads from a server on the loopback interface, without access to the network."""

import contextlib
import http.client
import http.server
import importlib.util
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading
import time

import keras
import pytest

from keras_vit.weights import download, registry
from keras_vit.weights.connection import Redirects
from keras_vit.weights.download import fetch_checkpoint
from tests.weights.download_server import (
    CONTENT,
    NAME,
    PATH,
    SHA256,
    cached,
    etag,
    expect,
    leave_part,
)

pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("cache")]


def test_download_once(mirror, cache, capsys):
    path = fetch_checkpoint(NAME)
    assert path == str(cache / f"{NAME}.npz")
    assert pathlib.Path(path).read_bytes() == CONTENT
    assert cached(cache) == [f"{NAME}.npz"]
    assert f"from {mirror.url}{PATH}" in capsys.readouterr().out
    assert fetch_checkpoint(NAME) == path
    assert [requested for requested, _ in mirror.requests] == [PATH]


def test_quiet_where_keras_is(mirror, capsys):
    keras.config.disable_interactive_logging()
    try:
        fetch_checkpoint(NAME)
    finally:
        keras.config.enable_interactive_logging()
    assert capsys.readouterr().out == ""


def test_without_a_mirror_the_published_address(server, cache, monkeypatch):
    monkeypatch.delenv("KERAS_VIT_MIRROR")
    expect(monkeypatch, url=server.url + PATH)
    assert pathlib.Path(fetch_checkpoint(NAME)).read_bytes() == CONTENT


@pytest.mark.parametrize(
    "address",
    [
        "file://{}",
        "ftp://127.0.0.1",
        "{}",
        "data:,x",
        "https:",
        "http://[",
        "s3://bucket",
    ],
)
@pytest.mark.parametrize("variable", ["KERAS_VIT_MIRROR", "HF_ENDPOINT"])
def test_a_mirror_that_is_no_web_address(tmp_path, monkeypatch, address, variable):
    file = tmp_path / "mirror" / PATH[1:]
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    monkeypatch.delenv("KERAS_VIT_MIRROR")
    monkeypatch.setenv(variable, address.format(tmp_path / "mirror"))
    name = NAME if variable == "KERAS_VIT_MIRROR" else "vit_b8.dino_in1k_224"
    with pytest.raises(ValueError, match=rf"{variable} must .*https://.*pass its path"):
        fetch_checkpoint(name)


@pytest.mark.parametrize(
    "target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "data:,"]
)
def test_a_redirect_that_is_no_web_address(mirror, cache, target):
    mirror.redirects = {PATH: {"Location": target}}
    with pytest.raises(OSError, match=r"is not a web address|is not allowed"):
        fetch_checkpoint(NAME)
    assert cached(cache) == []


def test_a_redirect_that_is_not_encrypted():
    redirects = Redirects("https://huggingface.co/file")
    arguments = (None, None, 302, "Found", {})
    with pytest.raises(http.client.HTTPException, match="is not encrypted"):
        redirects.redirect_request(*arguments, "http://127.0.0.1/file")


@pytest.mark.parametrize("length", ["abc", "-5", "1e9", "9" * 5000, "٣"])
def test_a_length_that_is_no_number(mirror, cache, length):
    mirror.headers["Content-Length"] = length.encode().decode("latin1")
    mirror.length = False
    with pytest.raises(OSError, match="announces a Content-Length of"):
        fetch_checkpoint(NAME)
    assert cached(cache) == []


def test_a_server_that_is_too_slow(mirror, cache, monkeypatch):
    monkeypatch.setattr(download, "_SLOWEST", 1e12)
    monkeypatch.setattr(download, "_TIMEOUT", 1e-9)
    monkeypatch.setattr(download, "_CONNECTIONS", 1)
    with pytest.raises(OSError, match=r"took more|too slow|timed out|in progress"):
        fetch_checkpoint(NAME)


def test_too_few_bytes_a_second():
    download._check_progress(61, 0, 61_001)
    with pytest.raises(http.client.HTTPException, match="sent 60000 bytes in 61 seconds"):
        download._check_progress(61, 5, 60_005)


@contextlib.contextmanager
def dripping(beginning):
    """Run a server that responds immediately, then sends one byte every 20 ms forever."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(beginning)
                for _ in range(1000):
                    connection.sendall(b"0")
                    time.sleep(0.02)

        threading.Thread(target=answer, daemon=True).start()
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("scheme", "beginning"),
    [
        ("http", b""),
        ("http", b"HTTP/1.1 200 OK\r\nX-"),
        ("http", b"HTTP/1.1 302 Found\r\nLocation: /"),
        ("http", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("https", b"\x16\x03\x03\x40\x00\x02"),  # A TLS record of 16 kB.
    ],
)
def test_headers_that_come_byte_by_byte(cache, monkeypatch, scheme, beginning):
    monkeypatch.setattr(download, "_TIMEOUT", 0.3)
    expect(monkeypatch, sha256=SHA256)
    with dripping(beginning) as port:
        monkeypatch.setenv("KERAS_VIT_MIRROR", f"{scheme}://127.0.0.1:{port}")
        begin = time.monotonic()
        with pytest.raises(OSError, match=r"took more than .* seconds to send"):
            fetch_checkpoint(NAME)
    assert time.monotonic() - begin < 5  # The server would continue for 20 seconds.
    assert f"{NAME}.npz" not in cached(cache)


def test_the_mirror_of_hugging_face(server, cache, monkeypatch):
    monkeypatch.delenv("KERAS_VIT_MIRROR")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    name = "vit_s16.deit3_in1k_224"
    assert (
        registry.published_checkpoints()[name].sha256 is None
    )  # The hash comes from the server.
    path = "/timm/deit3_small_patch16_224.fb_in1k/resolve/main/model.safetensors"
    server.files = {"/elsewhere": CONTENT}
    server.redirects = {path: {"Location": "/elsewhere", "X-Linked-ETag": f'"{SHA256}"'}}
    assert fetch_checkpoint(name) == str(cache / f"{name}.safetensors")
    server.files = {"/elsewhere": CONTENT[::-1]}
    (cache / f"{name}.safetensors").unlink()
    with pytest.raises(OSError, match=f"its sha256 is .* not {SHA256}"):
        fetch_checkpoint(name)
    assert cached(cache) == []


@pytest.mark.parametrize("cuts", [[2_000_000], [2_000_000, 1_500_000]])
def test_an_interrupted_download_is_resumed(mirror, cache, cuts):
    mirror.cuts = cuts[:]
    assert pathlib.Path(fetch_checkpoint(NAME)).read_bytes() == CONTENT
    assert cached(cache) == [f"{NAME}.npz"]
    ranges = [headers.get("Range") for _, headers in mirror.requests]
    starts = [sum(cuts[: i + 1]) for i in range(len(cuts))]
    assert ranges == [None, *(f"bytes={start}-" for start in starts)]


def test_a_server_that_sends_nothing_is_not_asked_again(mirror):
    mirror.cuts = [0] * 9
    with pytest.raises(OSError, match=r"ended early \(0 of 5120000 bytes"):
        fetch_checkpoint(NAME)
    assert len(mirror.requests) == 1


FETCH = """
import sys
from keras_vit.weights.download import fetch_checkpoint
for name in sys.argv[1:]:
    try:
        print(fetch_checkpoint(name))
    except OSError as error:
        print(type(error).__name__, str(error).replace("\\n", " "))
"""
KILLED = """
import os, sys
import keras
from keras_vit.weights.download import fetch_checkpoint

class Killed(keras.utils.Progbar):
    def update(self, current, *arguments, **keywords):
        if current >= 2**21:
            os._exit(9)

keras.utils.Progbar = Killed
fetch_checkpoint(sys.argv[1])
"""


def process(code, *arguments, **environment):
    environment = {
        **os.environ,
        "KERAS_BACKEND": "numpy",  # The fastest backend to import.
        "PYTHONPATH": str(pathlib.Path(__file__).parents[2]),
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, "-u", "-c", code, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_process_leaves_nothing_under_the_name(mirror, cache):
    killed = process(KILLED, NAME)
    killed.communicate()
    assert killed.returncode == 9
    assert f"{NAME}.npz" not in cached(cache)
    part = (cache / f"{NAME}.npz.part").stat().st_size
    assert 0 < part < len(CONTENT)
    # The next call resumes.
    assert pathlib.Path(fetch_checkpoint(NAME)).read_bytes() == CONTENT
    assert mirror.requests[-1][1]["Range"] == f"bytes={part}-"
    assert cached(cache) == [f"{NAME}.npz"]


@pytest.mark.parametrize("version", ['"another"', None])
def test_a_part_of_another_version_is_not_resumed(mirror, cache, version):
    leave_part(cache, b"old" * 1000, version)
    assert pathlib.Path(fetch_checkpoint(NAME)).read_bytes() == CONTENT


def test_a_part_that_has_all_bytes(mirror, cache):
    leave_part(cache, CONTENT, etag(CONTENT))
    assert pathlib.Path(fetch_checkpoint(NAME)).read_bytes() == CONTENT
    assert cached(cache) == [f"{NAME}.npz"]


def test_a_server_that_sends_another_part(mirror, cache):
    leave_part(cache, CONTENT[:1000], etag(CONTENT))
    mirror.shift = 1
    with pytest.raises(OSError, match="a part of the file that was not requested"):
        fetch_checkpoint(NAME)
    assert cached(cache) == []
    assert pathlib.Path(fetch_checkpoint(NAME)).read_bytes() == CONTENT


def test_a_server_that_cannot_resume(mirror, cache):
    mirror.ranges = False
    mirror.cuts = [2_000_000]
    assert pathlib.Path(fetch_checkpoint(NAME)).read_bytes() == CONTENT


def test_a_cache_that_cannot_be_made(mirror, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"Cannot write .*KERAS_HOME"):
        fetch_checkpoint(NAME)
    assert mirror.requests == []


@pytest.mark.slow
def test_two_processes_at_once(mirror, cache):
    mirror.gate = threading.Event()
    processes = [process(FETCH, NAME) for _ in range(2)]
    # The server sends nothing until both processes have printed their first line.
    first = sorted(running.stdout.readline() for running in processes)
    assert [line.split()[0] for line in first] == ["Downloading", "Waiting"]
    mirror.gate.set()
    path = str(cache / f"{NAME}.npz")
    for running in processes:
        assert running.communicate()[0].splitlines()[-1] == path
        assert running.returncode == 0
    assert pathlib.Path(path).read_bytes() == CONTENT
    assert len(mirror.requests) == 1
    assert cached(cache) == [f"{NAME}.npz"]


def test_paths_are_returned_as_they_are(tmp_path, cache):
    file = tmp_path / NAME  # Files take precedence over names.
    file.touch()
    assert fetch_checkpoint(file) == str(file)
    assert fetch_checkpoint(NAME) == NAME
    assert fetch_checkpoint(str(tmp_path)) == str(tmp_path)
    assert not cache.exists()


@pytest.mark.parametrize(
    "path", ["ViT-B_16.npz", "a/b", "model.safetensors", pathlib.Path(NAME)]
)
def test_a_missing_file(path):
    with pytest.raises(FileNotFoundError, match="No checkpoint at"):
        fetch_checkpoint(path)


def test_neither_a_file_nor_a_name():
    with pytest.raises(ValueError, match=f"No file and no .* nearest are {NAME}"):
        fetch_checkpoint("vit_h14.orig_in21k")
    with pytest.raises(ValueError, match="is a URL"):
        fetch_checkpoint("https://example.com/ViT-B_16.npz")
    with pytest.raises(ValueError, match="Expected hf://organization/name"):
        fetch_checkpoint("hf://vit")


def test_the_hub_without_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_vit\[hub\]'"):
        fetch_checkpoint("hf://org/vit")


@pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None,
    reason="NOT TESTED: hf:// needs huggingface_hub (pip install 'keras_vit[hub]')",
)
def test_the_hub(server, tmp_path):
    commit = "a" * 40
    server.headers = {"X-Repo-Commit": commit}
    server.files = {}
    repositories = {
        "vit": {
            "config.json": b"{}",
            "model.safetensors": CONTENT,
            "model.bin": b"pickle",
        },
        "pickles": {"config.json": b"{}", "model.bin": b"pickle"},
        "clip": {
            "open_clip_config.json": b"{}",
            "open_clip_model.safetensors": CONTENT,
            "processor_config.json": b"{}",
            "tokenizer.json": b"{}",
        },
        "gated": {"config.json": b"{}", "model.safetensors": b""},
    }
    server.gated = "/org/gated/resolve/"
    for name, files in repositories.items():
        listing = {"id": f"org/{name}", "sha": commit}
        listing["siblings"] = [{"rfilename": file} for file in files]
        for revision in ("main", "v1"):
            path = f"/api/models/org/{name}/revision/{revision}"
            server.files[path] = json.dumps(listing).encode()
        tree = [{"type": "file", "path": f, "size": 1, "oid": f} for f in files]
        path = f"/api/models/org/{name}/tree/{commit}?recursive=true&expand=false"
        server.files[path] = json.dumps(tree).encode()
        for file, content in files.items():
            server.files[f"/org/{name}/resolve/{commit}/{file}"] = content
    # huggingface_hub reads its environment variables on import, so it needs a process of
    # its own.
    running = process(
        FETCH,
        *("hf://org/vit", "hf://org/vit@v1", "hf://org/pickles", "hf://org/missing"),
        *("hf://org/gated", "hf://org/clip"),
        HF_ENDPOINT=server.url,
        HF_HOME=str(tmp_path / "hub"),
    )
    output, errors = running.communicate()
    assert running.returncode == 0, errors
    main, tagged, pickles, missing, gated, clip = output.splitlines()
    for path in (main, tagged):
        assert sorted(os.listdir(path)) == ["config.json", "model.safetensors"]
        assert (pathlib.Path(path) / "model.safetensors").read_bytes() == CONTENT
    assert "/api/models/org/vit/revision/v1" in [path for path, _ in server.requests]
    assert pickles.startswith("FileNotFoundError hf://org/pickles has no .safetensors")
    assert missing.startswith(
        f"OSError Could not download hf://org/missing from {server.url}"
    )
    assert "HF_ENDPOINT" in missing
    assert gated.startswith("OSError The repository org/gated is gated")
    assert "https://huggingface.co/org/gated" in gated
    assert "HF_TOKEN" in gated
    # All files from which the readers take settings.
    assert sorted(os.listdir(clip)) == [
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "processor_config.json",
    ]
