"""Attacks on the server: huge files and JSON, slow clients, and shutdown."""

import asyncio
import json
import pathlib
import re
import socket
import struct
import subprocess
import sys
import time
import types
import zlib

import numpy as np
import pytest

from tests.serve.served import ROOT, Served, b64, file, pixels

Image = pytest.importorskip("PIL.Image")
attacks = pytest.importorskip("tests.serve.attacks")
pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 90, 3), "uint8")


from keras_vit.serve import json_process  # noqa: E402
from keras_vit.serve.app import App  # noqa: E402
from keras_vit.serve.images import (  # noqa: E402
    UnboundedError,
    bounded,
    png_pixels,
    read_files,
)
from keras_vit.serve.json_process import JsonProcess  # noqa: E402
from keras_vit.serve.limits import Admission, Limits, RefusedError, _Pace  # noqa: E402
from keras_vit.serve.tensor_json import (  # noqa: E402
    BadRequestError,
    Tensor,
    read_request,
)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_the_work_of_an_ordinary_file_is_its_pixels(kind):
    content = attacks.saved(Image.fromarray(PIXELS), kind)
    assert bounded(content) == (content, 5400)
    assert bounded(content[:10])[1] == 0
    assert bounded(content[:-100])[1] == 5400


def test_scans_count_as_work():
    assert bounded(attacks.many_scans(0))[1] == 1_000_000
    assert bounded(attacks.many_scans(54))[1] == 4_000_000
    with pytest.raises(UnboundedError, match="more than 100 scans"):
        bounded(attacks.many_scans(2000))
    comments = b"\xff\xd8" + b"\xff\xfe\0\2" * 10**5
    with pytest.raises(UnboundedError, match="more than 20000 parts"):
        bounded(comments)


def test_only_the_first_frame_of_a_gif_is_decoded():
    one = attacks.many_frames(1, 100)
    assert bounded(one) == (one, 10_000)
    assert bounded(attacks.many_frames(3, 100)) == (one, 10_000)
    assert bounded(attacks.many_frames(60, 100))[1] == 75_000
    content, work = bounded(attacks.many_frames(1, 100, declared=(1, 1)))
    assert struct.unpack_from("<HH", content, 6) == (100, 100)
    assert work == 10_000
    blocks = one[: one.index(b"\x2c")] + b"\x21\xfe" + b"\1x" * 2_000_000
    with pytest.raises(UnboundedError, match="parts"):
        bounded(blocks)


def test_compressed_text_is_not_decoded():
    plain = attacks.compressed_text(0)
    assert bounded(attacks.compressed_text(100)) == (plain, 100)


def test_pixels_that_inflate_beyond_the_header():
    plain = attacks.saved(Image.fromarray(PIXELS), "PNG")
    start, end = plain.index(b"IDAT") - 4, plain.index(b"IEND") - 4

    def with_pixels(size):
        data = b"IDAT" + zlib.compress(b"\0" * size, 9)
        chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", 0)
        return plain[:start] + chunk + plain[end:]

    assert bounded(with_pixels(60 * 271))[1] == 5400
    with pytest.raises(UnboundedError, match="more pixels than its header states"):
        bounded(with_pixels(100_000_000))
    # Without inflating anything if the request is refused anyway.
    assert bounded(with_pixels(100_000_000), 5399)[1] == 5400


def test_large_bodies_are_read_at_a_common_rate():
    async def read(sizes):
        pace, loop = _Pace(1e6), asyncio.get_running_loop()
        start = loop.time()
        await asyncio.gather(*map(pace, sizes))
        return loop.time() - start

    assert 0.1 < asyncio.run(read([40_000] * 3)) < 0.5


def test_files_over_the_limit_are_replaced():
    files = [file(PIXELS), attacks.many_scans(2000), attacks.many_frames(1, 200)]
    result = read_files({"image_bytes": np.array(files, object)}, 10_000)
    first, *others = result.inputs["image_bytes"]
    assert first == files[0]
    assert max(map(len, others)) < 100
    assert result.work == [5400, 0, 0]
    assert list(result.reasons) == [1]


def test_small_images_count_together():
    files = np.array([file(PIXELS)] * 3, object)
    assert png_pixels({"image_bytes": files, "x": np.zeros(3)}) == 3 * 5400
    limits = Limits(max_pixels=10_000)
    app = types.SimpleNamespace(
        _json=None, _large_json=None, _limits=limits, _admission=Admission(limits)
    )
    request = types.SimpleNamespace(inputs={"image_bytes": files})
    with pytest.raises(RefusedError, match="accepts 10000 in a request"):
        asyncio.run(App._outputs(app, request, True))


@pytest.mark.parametrize("text", [b"[],", b"0,", b'"",', b"{},", b'{"":[]},'])
def test_json_is_counted_before_it_is_parsed(text):
    signatures = {"serving_default": {"x": Tensor((None,), np.dtype("int32"))}}
    body = b'{"instances": [' + text * 10**6 + b"0]}"
    start = time.perf_counter()
    with pytest.raises(BadRequestError, match="server accepts 1000 "):
        read_request(body, signatures, 10, 1000)
    assert time.perf_counter() - start < 1


def test_large_json_is_parsed_in_a_process(monkeypatch):
    call = JsonProcess()
    body, rows = b'{"instances": [1, 2]}', Tensor((None,), np.dtype("int32"))
    signatures = {"serving_default": {"x": rows}}
    for _ in range(2):
        request = call("read_request", body, signatures, 10, 1000)
        assert request.inputs["x"].tolist() == [1, 2]
        with pytest.raises(BadRequestError, match="JSON Parse error"):
            call("read_request", b"{", signatures, 10, 1000)
        assert call("write_answer", {"y": np.arange(2)}, True) == b'{"predictions":[0,1]}'
        call._process.kill()
        call._process.wait()  # The next call starts a new process.
    with monkeypatch.context() as patch:
        patch.setattr(json_process.pickle, "load", lambda file: [] * int(1e30))
        with pytest.raises(OverflowError):
            call("read_request", body, signatures, 10, 1000)
    assert call("write_answer", {"y": np.arange(2)}, True) == b'{"predictions":[0,1]}'
    call._process.stdin.close()
    call._process.stdout.close()


def test_limits_of_slow_bodies_and_of_answers():
    admission = Admission(Limits(max_answer=1000))
    assert admission._seconds_for(0) == 5
    assert admission._seconds_for(5 * 2**14) == 10
    assert admission._seconds_for(10**9) == 20

    async def answer(values):
        async with admission.answer(values, 8):
            return values

    assert asyncio.run(answer(1000)) == 1000
    with pytest.raises(RefusedError, match="Send 4 of the 8 instances") as refusal:
        asyncio.run(answer(2000))
    assert refusal.value.status == 413


@pytest.mark.slow
def test_clients_that_go_away_leave_no_work(exported):
    server = Served(exported, "--max-waiting", "20")
    body = {"signature_name": "features", "instances": [[[[0, 0, 0]]]] * 256}
    request = attacks.whole(json.dumps(body))
    given_up = 0
    for extra in (b"", b"GET / HTTP/1.1\r\n"):  # The latter pauses reading.
        for _ in range(60):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(request.replace(b"Connection: close\r\n", b"") + extra)
        time.sleep(0.5)
        metrics = server.ask("GET", "/monitoring/prometheus/metrics")[2].decode()
        count = float(re.search(r'requests_total{status="499"} (\S+)', metrics)[1])
        assert count >= given_up + 10
        given_up = count
        assert server.predict({"instances": pixels(1).tolist()})[0] == 200
    assert server.stop() == (0, [])


@pytest.mark.slow
def test_a_large_image_takes_little_more_memory_than_its_pixels(exported):
    def peak():
        status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024

    server = Served(exported, "--name", "vit")
    request = {"signature_name": "predict_bytes", "instances": [b64(file(pixels(1)[0]))]}
    assert server.predict(request)[0] == 200
    for kind in ("PNG", "JPEG", "WEBP"):
        before = peak()
        content = attacks.saved(Image.new("RGB", (5790, 5790), (9, 8, 7)), kind)
        request["instances"] = [b64(content)]
        assert server.predict(request)[0] == 200
        print(f"{kind}: {before:.0f} MB, then {peak():.0f} MB")
        assert peak() < before + 300  # The pixels take 100 MB of these.
    assert server.stop() == (0, [])


def start_attacks(server, scale):
    """Start all attacks in a process, with `scale` times the slow clients."""
    attack = subprocess.Popen(
        [sys.executable, "-m", attacks.__name__, str(server.port), str(scale)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert attack.stdout.readline() == "attacking\n"
    return attack


def under_attack(exported, scale, seconds, limits):
    """Measure a healthy client's times and the server's memory under all attacks."""
    server = Served(exported, "--name", "vit", *limits)
    request = {"signature_name": "predict_bytes", "instances": [b64(file(pixels(1)[0]))]}
    (expected,) = server.predict(request)[1]["predictions"]
    attack = start_attacks(server, scale)
    times, memory = [], []
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end:
            start = time.monotonic()
            status, answer = server.predict(request)
            assert status == 200, answer
            probabilities = answer["predictions"][0]["probabilities"]
            # Rounding depends on the batch size.
            np.testing.assert_allclose(
                probabilities, expected["probabilities"], atol=1e-5
            )
            times.append(time.monotonic() - start)
            memory.append(server.megabytes())
        start = time.monotonic()
        assert server.stop() == (0, [])
        stopped = time.monotonic() - start
        statuses = json.loads(attack.communicate(timeout=20)[0])
    finally:
        attack.kill()
        server.process.kill()
    assert {status for found in statuses.values() for status in found} <= {
        200,
        400,
        413,
        503,
    }
    return times, memory, stopped, statuses


@pytest.mark.slow
def test_a_healthy_client_among_attackers(exported):
    _, _, stopped, statuses = under_attack(exported, 30, 4, [])
    assert stopped < 15
    assert statuses["lengths"] == [400]
    assert statuses["text"] in ([], [200])


@pytest.mark.slow
def test_all_attacks_at_once(exported):
    times, memory, stopped, statuses = under_attack(exported, 300, 60, [])
    p99 = np.percentile(times, 99)
    print(f"p99 {p99:.2f} s, {max(memory):.0f} MB, stopped in {stopped:.1f} s")
    print(statuses)
    assert p99 < 1
    assert max(memory) < 1200
    assert stopped < 15
