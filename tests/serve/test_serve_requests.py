"""Requests that the server refuses."""

import asyncio
import http.client
import json
import re
import socket
import time

import numpy as np
import pytest

from tests.serve.served import (
    MAX_BODY,
    MAX_INSTANCES,
    MAX_WAITING,
    hundred_megabytes,
    pixels,
)

pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]


def answer_on(connection):
    """Return status and body of an answer; the server may keep the connection open."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


def asked(server, lines, body=b""):
    """Send a request with a given head; return the status and the error."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        status, answer = answer_on(connection)
    return status, json.loads(answer)["error"]


POST = "POST /v1/models/vit:predict HTTP/1.1"
PLAIN = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("headers", "status", "message"),
    [
        (["Host: evil.example"], 403, "evil.example.*--allow-host"),
        (["Host: 127.0.0.1.evil.example:80"], 403, "--allow-host"),
        (["Host: localhost@evil.example"], 403, "--allow-host"),
        (["Host: localhost:x"], 403, "--allow-host"),
        (["Host:"], 403, "--allow-host"),
        (["Host: localhost", "Origin: http://evil.example"], 403, "evil.example"),
        (["Host: localhost", "Origin: null"], 403, "null"),
        (["Host: localhost:8501", "Origin: http://localhost:3000"], 403, "3000"),
        (["Host: localhost", "Content-Type: text/plain"], 415, "application/json"),
        (["Host: a.example", f"Content-Type: {PLAIN}"], 400, "JSON Parse error"),
        (
            ["Host: localhost", f"Content-Type: {PLAIN}", "Sec-Fetch-Site: cross-site"],
            415,
            "application/json",
        ),
        (["Host: localhost", "Content-Type: Multipart/Form-Data; x=y"], 415, "multipart"),
        (["Host: [::1]:80", "Content-Type: application/json"], 400, "JSON Parse error"),
        (["Host: A.example.", "Origin: https://a.example"], 400, "JSON Parse error"),
        (["Host: localhost:9", "Origin: http://localhost:9"], 400, "JSON Parse error"),
    ],
)
def test_pages_of_other_sites_are_refused(server, headers, status, message):
    lines = [POST, *headers, "Connection: close", "Content-Length: 1"]
    received, error = asked(server, lines, b"{")
    assert received == status
    assert re.search(message, error), error


@pytest.mark.parametrize(
    "lengths",
    [
        ["Content-Length: 2", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 0"],
        ["Content-Length: abc"],
        ["Content-Length: -1"],
        ["Content-Length: +2"],
        ["Content-Length: 2", "Content-Length: 3"],
        ["Content-Length: 2, 3"],
        [f"Content-Length: {'9' * 5000}"],
        ["Content-Length: \xb2"],
    ],
)
def test_a_body_has_one_length(server, lengths):
    status, error = asked(server, [POST, "Host: localhost", *lengths], b"{}")
    assert status == 400
    assert error
    assert server.ask("GET", "/healthz")[0] == 200


DEEP = b'{"instances": ' + b"[" * 500_000


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ("", "JSON Parse error"),
        ("{", "JSON Parse error"),
        ("[]", "must be an object"),
        (b'{"instances": "\xff"}', "JSON Parse error"),
        ('{"instances": ["\\ud800"]}', "JSON Parse error"),
        (DEEP, "JSON Parse error"),
        (DEEP + b"]" * 500_000 + b"}", "JSON Parse error"),
        ('{"instances": ' + "[" * 900 + "]" * 900 + "}", "must have shape"),
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"inputs": [], "instances": []}, "Only one of 'inputs' and 'instances'"),
        ({"instances": []}, "at least one value"),
        ({"instances": {}}, "at least one value"),
        ({"inputs": {}}, "Missing named input: images"),
        ({"inputs": {"b64": 3}}, "Missing named input: images"),
        ({"inputs": []}, r"must have shape \(any, any, any, 3\).*received \(0\)"),
        ({"inputs": None}, r"received \(\)"),
        ({"instances": [], "signature_name": 3}, "must be a string value"),
        ({"instances": [], "signature_name": "x"}, '"x" not found.*predict_uint8'),
        ({"instances": [{"pixels": 3}]}, "Element 0 .* the keys images"),
        ({"instances": [{"images": [[[0, 0, 0]]]}, 3]}, "Element 1 "),
        ({"instances": [[[[0, 0, 0]]], {"images": 3}]}, "differ in length or depth"),
        ({"instances": [[[[0, 0, 0], [0, 0]]]]}, "differ in length or depth"),
        ({"instances": [[[[0, 0, [0]]]]]}, "differ in length or depth"),
        ({"instances": [[[[0, 0]]]]}, r"received \(1, 1, 1, 2\)"),
        ({"instances": [[[]]]}, r"received \(1, 1, 0\)"),
        ({"instances": [[[[0, 0, "0"]]]]}, "expected type: float32; received str"),
        ({"instances": [[[[0, 0, True]]]]}, "received bool"),
        ({"instances": [[[[0, 0, None]]]]}, "received null"),
        ({"instances": [[[[0, 0, {}]]]]}, "received object"),
        ('{"instances": [[[[0, 0, NaN]]]]}', "JSON Parse error"),
        ('{"instances": [[[[0, 0, 1e999]]]]}', "JSON Parse error"),
        ({"instances": [[[[0, 0, 1e39]]]]}, "out of the range of float32"),
        (
            {"signature_name": "predict_uint8", "instances": [[[[0, 0, 256]]]]},
            "out of range",
        ),
        (
            {"signature_name": "predict_uint8", "instances": [[[[0, 0, 1.5]]]]},
            "expected type: uint8; received float",
        ),
        (
            {"signature_name": "predict_bytes", "instances": [3]},
            "type: string; rec.* int",
        ),
        (
            {"signature_name": "predict_bytes", "instances": [{"b64": "?"}]},
            "Unable to base64 decode",
        ),
        (
            {"signature_name": "predict_bytes", "inputs": [{"b64": "", "x": 1}]},
            "must be {.b64",
        ),
        (
            {"signature_name": "predict_bytes", "instances": [[{"b64": ""}]]},
            r"must have shape \(any\)",
        ),
        (
            {"signature_name": "predict_bytes", "instances": ["x"] * (MAX_INSTANCES + 1)},
            f"1 to {MAX_INSTANCES} instances; received {MAX_INSTANCES + 1}",
        ),
        ({"signature_name": "predict_bytes", "inputs": []}, "received 0"),
        ({"inputs": np.zeros((1, 1, 120_000, 3), int).tolist()}, "1 to 33554432 pixels"),
    ],
)
def test_bad_requests(server, request_, message):
    status, answer = server.predict(request_)
    assert status == 400
    assert re.search(message, answer["error"]), answer["error"]
    assert len(answer["error"]) < 1000


def test_a_large_body_is_refused_before_it_is_read(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    connection.putrequest("POST", "/v1/models/vit:predict")
    connection.putheader("Content-Length", str(10**8))
    connection.endheaders()
    response = connection.getresponse()  # No body has been sent yet.
    assert response.status == 413
    assert str(MAX_BODY) in json.loads(response.read())["error"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_hundred_megabytes(server, chunked):
    assert hundred_megabytes(server, chunked) == 413


def stalled(server, sent=b"{"):
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    head = f"{POST}\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n".encode()
    connection.sendall(head + sent)
    return connection


def test_bodies_that_do_not_come(server):
    connections = [stalled(server) for _ in range(2 * MAX_WAITING)]
    time.sleep(0.2)
    request = json.dumps({"instances": pixels(1).tolist()})
    assert server.predict(request)[0] == 200
    assert server.ask("GET", "/healthz")[0] == 200
    for connection in connections:
        status, answer = answer_on(connection)
        assert status == 408
        assert b"did not arrive in 1.5 seconds" in answer
        connection.close()
    assert server.predict(request)[0] == 200
    for sent in (b"", b"{"):  # The client disconnects.
        stalled(server, sent).close()
    assert server.predict(request)[0] == 200


@pytest.mark.parametrize("stops", [True, False])
def test_a_refused_request_is_read_before_the_connection_closes(stops, monkeypatch):
    """Check that the client can read the error while it is still sending."""
    from keras_vit.serve import limits

    linger = 30.0 if stops else 0.2
    monkeypatch.setattr(limits, "_LINGER", linger)
    rest, events = [b"a", b"b", b"c"], []

    async def receive():
        if not rest and not stops:
            await asyncio.Event().wait()  # The client sends nothing more.
        events.append("read")
        body, more = rest.pop(0), bool(rest or not stops)
        return {"type": "http.request", "body": body, "more_body": more}

    async def send(message):
        closes = message["type"].endswith("body") and not message.get("more_body")
        events.append("closed" if closes else message["type"])

    response = limits.RefusedError(413, "too large", unread=True).response()
    start = time.monotonic()
    asyncio.run(response({"type": "http"}, receive, send))
    seconds = time.monotonic() - start
    answered = ["http.response.start", "http.response.body"]
    assert events == [*answered, "read", "read", "read", "closed"]
    assert seconds < 20
    assert stops or seconds >= linger
