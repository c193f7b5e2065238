"""Whole HTTP requests as bytes, and what can go wrong with them on the way."""

import json
import random
import re
import socket

HEAD = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
PREDICT = b"/v1/models/vit:predict"
_EXTENSIONS = [b";a=b", b';a="b;c"', b";" + b"x" * 200, b" ;a", b";", b";a;b=c"]


def whole(body, path=PREDICT, *lines):
    """Return a request with a body of known length."""
    lines = (b"Connection: close", b"Content-Length: %d" % len(body), *lines)
    return HEAD % path + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def chunked(body, sizes, extension=b""):
    """Return a request whose body comes in chunks of the sizes that `sizes()` returns."""
    parts, position = [], 0
    while position < len(body):
        part = body[position : position + sizes()]
        parts.append(b"%x%s\r\n%s\r\n" % (len(part), extension, part))
        position += len(part)
    start = HEAD % PREDICT + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    return start + b"".join(parts) + b"0\r\n\r\n"


def ask(port, pieces, cut=False, patience=5.0):
    """Send pieces of a request; return the status and body of the answer, or None.

    Args:
        port: int, of the server.
        pieces: list of bytes, each of which is sent by itself.
        cut: bool, whether to say that nothing follows.
        patience: float, seconds to wait before saying so.
    """
    answer = b""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(patience)
        try:
            for piece in pieces:
                connection.sendall(piece)
            if cut:
                connection.shutdown(socket.SHUT_WR)
            while received := connection.recv(2**16):
                answer += received
        except TimeoutError:
            pass
        except ConnectionError:  # The server has answered before it had read everything.
            pass
    head, _, body = answer.partition(b"\r\n\r\n")
    found = re.match(rb"HTTP/1\.1 ([0-9]{3}) ", head)
    return (int(found[1]), body) if found else None


def altered(content: bytes, generator: random.Random) -> bytes:
    """Return bytes with some flipped, cut out, repeated or added."""
    data = bytearray(content)
    start = generator.randrange(len(data))
    end = min(len(data), start + generator.choice([1, 2, 10, 1000]))
    kind = generator.choice(["flip", "flip", "remove", "repeat", "insert"])
    if kind == "flip":
        for _ in range(generator.choice([1, 1, 3, 20])):
            data[generator.randrange(len(data))] = generator.randrange(256)
    elif kind == "remove":
        del data[start:end]
    elif kind == "repeat":
        data[start:start] = data[start:end] * generator.choice([1, 2, 50])
    else:
        data[start:start] = generator.randbytes(generator.choice([1, 4, 100]))
    return bytes(data)


def mutated(body: bytes, generator: random.Random):
    """Return a request for `body` that is sent in an unusual way, or is damaged.

    Returns:
        `(pieces, sent, cut)`: what to send; the body that a server must understand, or
        None if it may refuse the request; whether the request ends too soon.
    """
    request = whole(body)
    head = len(request) - len(body)
    kind = generator.choice(
        ["pieces", "chunks", "bytes", "extension", "headers"]
        + ["head", "body"] * 3
        + ["cut"]
    )
    if kind == "pieces":
        cuts = sorted(generator.choices(range(len(request)), k=8))
        bounds = zip([0, *cuts], [*cuts, len(request)], strict=True)
        return [request[a:b] for a, b in bounds], body, False
    if kind == "chunks":
        return [chunked(body, lambda: generator.randrange(1, 5000))], body, False
    if kind == "bytes":
        return [chunked(body, lambda: 1)], body, False
    if kind == "extension":
        extension = generator.choice(_EXTENSIONS)
        return [chunked(body, lambda: 500, extension)], None, False
    if kind == "headers":
        first, *lines = request[: head - 4].split(b"\r\n")
        generator.shuffle(lines)
        if generator.random() < 0.5:
            lines = [line.swapcase() for line in lines]
        return [b"\r\n".join([first, *lines, b"", b""]) + body], body, False
    if kind == "head":
        return [altered(request[:head], generator) + body], None, False
    if kind == "body":
        # Its length is right, so that the damage is in the JSON or in an image.
        damaged = altered(body, generator)
        return [whole(damaged)], damaged, False
    return [request[: generator.randrange(len(request))]], None, True


def readable(body):
    """Return the request that JSON holds, or None."""
    try:
        return json.loads(body)
    except ValueError:  # UnicodeDecodeError is one.
        return None
