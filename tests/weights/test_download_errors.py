"""Downloads that go wrong: damaged files, errors of the server, and full disks."""

import base64
import errno
import hashlib
import io
import pathlib
import shutil
import socket
import sys
import types

import pytest

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


def test_truncated(mirror, cache):
    mirror.ranges = False
    mirror.cuts = [2_000_000] * 9
    with pytest.raises(OSError, match="2000000 of 5120000 bytes") as error:
        fetch_checkpoint(NAME)
    for advice in (mirror.url + PATH, str(cache / f"{NAME}.npz"), "KERAS_VIT_MIRROR"):
        assert advice in str(error.value)
    assert f"{NAME}.npz" not in cached(cache)


def test_wrong_hash(mirror, cache, monkeypatch):
    expect(monkeypatch, sha256="0" * 64)
    with pytest.raises(OSError, match=f"its sha256 is {SHA256}, not 0000"):
        fetch_checkpoint(NAME)
    assert cached(cache) == []
    expect(monkeypatch, sha256=SHA256)
    assert fetch_checkpoint(NAME)


def test_the_hash_that_google_sends(mirror, cache):
    md5 = hashlib.md5(CONTENT).digest()
    mirror.headers["x-goog-hash"] = (
        f"crc32c=AAAAAA==,md5={base64.b64encode(md5).decode()}"
    )
    mirror.files[PATH] = CONTENT[::-1]
    with pytest.raises(OSError, match=f"its md5 is .* not {md5.hex()}"):
        fetch_checkpoint(NAME)
    assert cached(cache) == []
    mirror.files[PATH] = CONTENT
    assert fetch_checkpoint(NAME)


def test_neither_length_nor_hash(mirror, cache, monkeypatch):
    mirror.length = False
    with pytest.raises(OSError, match="neither the file's length nor its hash"):
        fetch_checkpoint(NAME)
    # A hash is sufficient.
    expect(monkeypatch, sha256=SHA256)
    assert pathlib.Path(fetch_checkpoint(NAME)).read_bytes() == CONTENT


def test_a_web_page_instead_of_the_file(mirror, cache):
    leave_part(cache, CONTENT[:1000], etag(CONTENT))
    mirror.ranges = False
    mirror.headers["Content-Type"] = "text/html; charset=utf-8"
    with pytest.raises(OSError, match=r"sent a web page .*1000 of unknown bytes .* kept"):
        fetch_checkpoint(NAME)
    assert (cache / f"{NAME}.npz.part").stat().st_size == 1000


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_errors_of_the_server(mirror, cache, status):
    mirror.status = status
    with pytest.raises(OSError, match=f"the server answered {status}") as error:
        fetch_checkpoint(NAME)
    assert mirror.url + PATH in str(error.value)
    assert cached(cache) == []


@pytest.mark.parametrize(
    ("status", "gated", "refused"), [(401, True, ""), (403, True, ""), (200, False, "/")]
)
def test_a_gated_file(mirror, monkeypatch, status, gated, refused):
    mirror.status, mirror.gated = status, refused
    expect(monkeypatch, gated=gated, url="https://huggingface.co/org/vit/resolve/main/x")
    with pytest.raises(OSError, match="accept the license at https://h") as error:
        fetch_checkpoint(NAME)
    for advice in ("https://huggingface.co/org/vit,", "HF_TOKEN", "`hf auth login`"):
        assert advice in str(error.value)
    assert "hf://org/vit" in str(error.value)


def test_a_preset_without_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    expect(monkeypatch, url="kaggle://keras/vit/keras/vit_base/1")
    with pytest.raises(ImportError, match="pip install kagglehub"):
        fetch_checkpoint(NAME)


def test_a_preset(monkeypatch, tmp_path):
    kagglehub = types.ModuleType("kagglehub")
    kagglehub.model_download = lambda handle: str(tmp_path / handle)
    monkeypatch.setitem(sys.modules, "kagglehub", kagglehub)
    expect(monkeypatch, url="kaggle://keras/dinov3/keras/dinov3_vit_small/1")
    path = str(tmp_path / "keras" / "dinov3" / "keras" / "dinov3_vit_small" / "1")
    assert fetch_checkpoint(NAME) == path

    def refuse(handle):
        raise ConnectionError("403")

    kagglehub.model_download = refuse
    with pytest.raises(OSError, match=r"kaggle.com/models/keras/dinov3\. Then run"):
        fetch_checkpoint(NAME)


def test_connection_refused(cache, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("KERAS_VIT_MIRROR", f"http://127.0.0.1:{port}")
    with pytest.raises(
        OSError, match=r"Connection refused \(0 of unknown bytes"
    ) as error:
        fetch_checkpoint(NAME)
    assert "KERAS_VIT_MIRROR" in str(error.value)
    assert cached(cache) == []


def test_no_room(mirror, cache, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5_000_000))
    with pytest.raises(
        OSError, match="5120000 bytes needed, 5000000 bytes free"
    ) as error:
        fetch_checkpoint(NAME)
    assert "KERAS_HOME" in str(error.value)
    assert cached(cache) == []


def test_the_disk_is_full_after_all(mirror, cache, monkeypatch):
    class Full(io.FileIO):
        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(
        "builtins.open",
        lambda file, mode="r", open=open: (
            Full(file, "a") if mode == "ab" else open(file, mode)
        ),
    )
    with pytest.raises(OSError, match=r"No space left on device.*KERAS_HOME"):
        fetch_checkpoint(NAME)
    assert f"{NAME}.npz" not in cached(cache)
