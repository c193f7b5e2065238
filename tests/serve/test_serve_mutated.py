"""Random requests, most of them invalid."""

import json
import random

import pytest

from tests.serve.served import b64, file, huge_png, hundred_megabytes, pixels

pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]


def mutated(generator):
    """Return an invalid request and the statuses that the server may answer."""
    image = file(pixels(1, seed=generator.randrange(100))[0], "JPEG")
    rows = pixels(1, 3, 4).astype(int).tolist()

    def files(*contents):
        return {"signature_name": "predict_bytes", "instances": [*map(b64, contents)]}

    def truncated():
        return files(image[: generator.randrange(200)]), {400}

    def huge():
        return files(huge_png(generator.choice([2**14, 2**20, 2**30]))), {400}

    def some_bad():
        return files(image, image[: generator.randrange(200)], huge_png()), {200}

    def noise():
        return generator.randbytes(generator.randrange(2000)), {400}

    def wrong_type():
        row, value = rows[0][1][2], [None, True, "1", {}, [], "x" * 10**5, 1e39, -1e300]
        row[generator.randrange(3)] = generator.choice(value)
        return {"inputs": rows}, {400}

    def wrong_key():
        key = generator.choice(["instances", "inputs"])
        value = generator.choice([None, 1, "x", True, {}, [], [[]], [{}], {"b64": "x"}])
        return {key: value}, {400}

    def ragged():
        del rows[0][generator.randrange(3)][generator.randrange(4)]
        return {"instances": rows}, {400}

    def deep():
        depth = generator.randrange(1000, 10**6)
        brackets = generator.choice([("[", "]"), ('{"a":', "}")])
        return '{"inputs": ' + brackets[0] * depth + brackets[1] * depth, {400, 413}

    def cut():
        text = json.dumps({"instances": rows})
        return text[: generator.randrange(len(text))], {400}

    def flipped():
        text = bytearray(json.dumps(files(image)).encode())
        for _ in range(generator.randrange(1, 10)):
            text[generator.randrange(len(text))] = generator.randrange(256)
        return bytes(text), {200, 400}

    def fine():
        return {"instances": pixels(1, *generator.choices(range(1, 50), k=2)).tolist()}, {
            200
        }

    kinds = [truncated, huge, some_bad, noise, wrong_type, wrong_key, ragged, deep]
    return generator.choice([*kinds, cut, flipped, fine])()


def mutate(server, count, generator):
    for number in range(count):
        request, statuses = mutated(generator)
        status, answer = server.predict(request)
        assert status in statuses, (number, status, str(request)[:500], answer)


def test_mutated_requests(server):
    generator = random.Random(0)
    mutate(server, 60, generator)
    before = server.megabytes()
    mutate(server, 200, generator)
    assert server.megabytes() < before + 50
    assert server.predict({"instances": pixels(1).tolist()})[0] == 200


@pytest.mark.slow
def test_ten_thousand_mutated_requests(server):
    generator = random.Random(1)
    memory = []
    for _ in range(20):
        mutate(server, 500, generator)
        assert hundred_megabytes(server, chunked=generator.random() < 0.5) == 413
        memory.append(server.megabytes())
    print("MB after each 500:", [round(value) for value in memory])
    assert memory[-1] < memory[4] + 50
    assert server.predict({"instances": pixels(1).tolist()})[0] == 200
