"""recipes.serve under attack: bounds on files, JSON, slow clients and the end."""

import json
import struct
import time

import numpy as np
import pytest

from tests.recipes.test_serve import Served, b64, exported, file, model, pixels

Image = pytest.importorskip("PIL.Image")
attacks = pytest.importorskip("tests.recipes.serve_attacks")
__all__ = ["exported", "model"]  # The fixtures.
pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 90, 3), "uint8")


from recipes.serve.images import UnboundedError, bounded, read_files  # noqa: E402
from recipes.serve.tensor_json import (  # noqa: E402
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


def test_files_over_the_limit_are_replaced():
    files = [file(PIXELS), attacks.many_scans(2000), attacks.many_frames(1, 200)]
    result = read_files({"image_bytes": np.array(files, object)}, 10_000)
    first, *others = result.inputs["image_bytes"]
    assert first == files[0]
    assert max(map(len, others)) < 100
    assert result.work == [5400, 0, 0]
    assert list(result.reasons) == [1]


@pytest.mark.parametrize("text", [b"[],", b"0,", b'"",', b"{},", b'{"":[]},'])
def test_json_is_counted_before_it_is_parsed(text):
    signatures = {"serving_default": {"x": Tensor((None,), np.dtype("int32"))}}
    body = b'{"instances": [' + text * 10**6 + b"0]}"
    start = time.perf_counter()
    with pytest.raises(BadRequestError, match="server takes 1000 "):
        read_request(body, signatures, 10, 1000)
    assert time.perf_counter() - start < 1


def start_attacks(server, scale):
    """All attacks at once; `scale` of the clients."""
    attack = attacks.Attack(server.port)
    predict = attacks.request
    attack.repeat("scans", predict(attacks.many_scans(2000)))
    attack.repeat("frames", predict(attacks.many_frames(60)))
    attack.repeat("larger frame", predict(attacks.many_frames(4, declared=(1, 1))))
    attack.repeat("large images", predict(*[attacks.large_png()] * 32))
    attack.repeat("text", predict(attacks.compressed_text(100)))
    attack.repeat("lists", attacks.whole(b'{"instances": [' + b"[]," * 10**7 + b"0]}"))
    lengths = "Content-Length: 24000000", "Transfer-Encoding: chunked"
    attack.repeat("lengths", attacks.head(*lengths))
    attack.trickle(attacks.head("Content-Length: 1000000"), scale)
    unfinished = attacks.head("Content-Length: 30000000") + b" " * 24_000_000
    attack.trickle(unfinished, scale // 10)
    images = np.zeros((256, 1, 1, 3), int).tolist()
    body = {"signature_name": "features", "instances": images}
    attack.never_read(attacks.whole(json.dumps(body)), scale // 3)
    return attack


def under_attack(exported, scale, seconds, limits):
    """A healthy client's times, while everything is attacked; the server's memory."""
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
            assert status == 200
            probabilities = answer["predictions"][0]["probabilities"]
            # Batches of other sizes round differently.
            np.testing.assert_allclose(
                probabilities, expected["probabilities"], atol=1e-5
            )
            times.append(time.monotonic() - start)
            memory.append(server.megabytes())
        start = time.monotonic()
        assert server.stop()[0] == 0
        stopped = time.monotonic() - start
    finally:
        attack.stop()
        server.process.kill()
    statuses = attack.statuses
    assert all(
        max(found) < 500 or found <= {400, 413, 503} for found in statuses.values()
    )
    return times, memory, stopped, statuses


def test_a_healthy_client_among_attackers(exported):
    _, _, stopped, statuses = under_attack(exported, 30, 4, [])
    assert stopped < 15
    assert statuses["lengths"] == {400}
    assert statuses["text"] <= {200}


@pytest.mark.slow
def test_all_attacks_at_once(exported):
    times, memory, stopped, statuses = under_attack(exported, 300, 60, [])
    p99 = np.percentile(times, 99)
    print(f"p99 {p99:.2f} s, {max(memory):.0f} MB, stopped in {stopped:.1f} s")
    print(statuses)
    assert p99 < 1
    assert max(memory) < 1200
    assert stopped < 15
