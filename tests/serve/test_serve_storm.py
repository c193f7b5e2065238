"""Server under many damaged or concurrent requests."""

import concurrent.futures
import http.client
import json
import random

import numpy as np
import pytest

from tests.cases import array
from tests.serve.served import b64, file, pixels

wire = pytest.importorskip("tests.serve.wire")
pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]

KINDS = ["JPEG", "PNG", "GIF", "WEBP", "BMP"]


def colored(seed):
    """Return pixels of a unique color, so that no other image has the same answer."""
    generator = np.random.default_rng(seed)
    image = pixels(1, *generator.integers(8, 40, 2), seed=seed)[0]
    return image // 4 + generator.integers(0, 192, 3).astype("uint8")


def bodies(generator):
    """Return a JSON request of each kind."""
    image = colored(generator.randrange(1000))[:6, :6]
    files = [b64(file(image, kind)) for kind in generator.choices(KINDS, k=2)]
    requests = [
        {"instances": [image.tolist()]},
        {"inputs": {"images": [image.tolist()]}},
        {"signature_name": "predict_uint8", "instances": [{"images": image.tolist()}]},
        {"signature_name": "predict_bytes", "instances": files},
        {"signature_name": "predict_bytes", "inputs": files[:1]},
        {"signature_name": "attention", "instances": files[:1]},
        {"signature_name": "features", "inputs": [image.tolist()]},
    ]
    return [json.dumps(request).encode() for request in requests]


def same(answer, expected):
    """Return True if two answers have the same values, except for rounding."""
    if isinstance(answer, dict):
        return answer.keys() == expected.keys() and all(
            same(answer[key], expected[key]) for key in answer
        )
    if isinstance(answer, list):
        return len(answer) == len(expected) and all(map(same, answer, expected))
    if isinstance(answer, float):
        return abs(answer - expected) < 1e-4
    return answer == expected


def send_mutated(server, seed):
    """Send a damaged request, check the answer and return its status."""
    generator = random.Random(seed)
    body = generator.choice(bodies(generator))
    pieces, sent, cut = wire.mutated(body, generator)
    answer = wire.ask(server.port, pieces, cut)
    about = (seed, pieces[0][:300], answer)
    if answer is None:
        assert sent is None, about
        return None
    status, content = answer
    assert status < 500, about
    if sent == body:
        assert status == 200, about
    if status != 200 or not content.startswith((b'{"predictions"', b'{"outputs"')):
        return status
    # The server must parse the request as Python does.
    understood = wire.readable(body if sent is None else sent)
    assert understood is not None, about
    again = wire.ask(server.port, [wire.whole(json.dumps(understood).encode())])
    assert again[0] == 200, about
    assert same(json.loads(content), json.loads(again[1])), about
    return status


def mutate(server, seeds):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda seed: send_mutated(server, seed), seeds))


def test_mutated_bytes(server):
    statuses = mutate(server, range(150))
    assert statuses.count(200) > 40
    assert statuses.count(400) > 30
    assert server.predict({"instances": pixels(1).tolist()})[0] == 200


@pytest.mark.slow
def test_ten_thousand_mutated_bytes(server):
    statuses = mutate(server, range(1000, 2000))
    before = server.megabytes()
    statuses += mutate(server, range(2000, 11_000))
    print({status: statuses.count(status) for status in set(statuses)})
    print(f"{before:.0f} MB after 1,000, {server.megabytes():.0f} MB after 10,000")
    assert server.megabytes() < before + 50
    assert server.predict({"instances": pixels(1).tolist()})[0] == 200


def mixed(generator, truth):
    """Return a random request, its path, and the expected probabilities or status."""
    images = generator.choices(range(len(truth)), k=generator.choice([1, 1, 2, 5, 9]))
    expected = [truth[i] for i in images]
    path = generator.choice(["", "/versions/3", "/versions/03"])
    kind = generator.randrange(6)
    if kind == 0:
        return "/versions/4", {"instances": []}, 404
    if kind == 1:
        name = generator.choice(["serving_default", "predict_uint8"])
        rows = [colored(images[0]).tolist()] * len(images)
        key = generator.choice(["instances", "inputs"])
        expected = [expected[0]] * len(images)
        return path, {"signature_name": name, key: rows}, expected
    if kind == 2:
        broken = b64(file(colored(images[0]))[:-30])
        return path, {"signature_name": "predict_bytes", "instances": [broken]}, 400
    key = generator.choice(["instances", "inputs"])
    files = [b64(file(colored(i), generator.choice(["PNG", "BMP"]))) for i in images]
    return path, {"signature_name": "predict_bytes", key: files}, expected


def send_mixed(server, truth, seeds):
    """Send requests over one connection, and check each answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    for seed in seeds:
        generator = random.Random(seed)
        path, request, expected = mixed(generator, truth)
        connection.request("POST", f"/v1/models/vit{path}:predict", json.dumps(request))
        response = connection.getresponse()
        answer = json.loads(response.read())
        if isinstance(expected, int):
            assert response.status == expected, (seed, answer)
            continue
        assert response.status == 200, (seed, answer)
        if "predictions" in answer:
            received = [row["probabilities"] for row in answer["predictions"]]
        else:
            received = answer["outputs"]["probabilities"]
        np.testing.assert_allclose(received, expected, rtol=0, atol=1e-4, err_msg=seed)
    connection.close()


def storm(server, model, count, clients):
    images = [colored(i) for i in range(40)]
    truth = [array(model(model.preprocessor(image[None])))[0] for image in images]
    distances = np.abs(np.array(truth)[:, None] - truth).max(-1) + np.eye(len(truth))
    assert distances.min() > 2e-4  # Answers of different images are distinguishable.
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        parts = [range(i, count, clients) for i in range(clients)]
        list(pool.map(lambda seeds: send_mixed(server, truth, seeds), parts))


def test_mixed_requests_at_once(server, model):
    storm(server, model, 100, 10)


@pytest.mark.slow
def test_two_thousand_mixed_requests_at_once(server, model):
    storm(server, model, 2000, 32)
