"""HTTP requests as bytes, and ways to damage them in transit."""

import json
import random
import re
import socket

HEAD = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
PREDICT = b"/v1/models/vit:predict"
_EXTENSIONS = [b";a=b", b';a="b;c"', b";" + b"x" * 200, b" ;a", b";", b";a;b=c"]


def whole(body, path=PREDICT, *lines):
    """Return a request with a Content-Length."""
    lines = (b"Connection: close", b"Content-Length: %d" % len(body), *lines)
    return HEAD % path + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def chunked(body, sizes, extension=b""):
    """Return a request with a chunked body; `sizes()` returns the size of each chunk."""
    parts, position = [], 0
    while position < len(body):
        part = body[position : position + sizes()]
        parts.append(b"%x%s\r\n%s\r\n" % (len(part), extension, part))
        position += len(part)
    start = HEAD % PREDICT + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    return start + b"".join(parts) + b"0\r\n\r\n"


def ask(port, pieces, cut=False, patience=5.0):
    """Send a request in pieces.

    Args:
        port: int, port of the server.
        pieces: list of bytes, each of which is sent separately.
        cut: bool, whether to close the sending side of the connection afterwards.
        patience: float, timeout in seconds.

    Returns:
        Status and body of the answer, or None.
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
            while not _is_complete(answer) and (received := connection.recv(2**16)):
                answer += received
        except TimeoutError:
            pass
        except ConnectionError:  # The server may answer before it has read everything.
            pass
    head, _, body = answer.partition(b"\r\n\r\n")
    found = re.match(rb"HTTP/1\.1 ([0-9]{3}) ", head)
    return (int(found[1]), body) if found else None


def _is_complete(answer):
    """Return True if the whole body has arrived; the server may not close soon."""
    head, separator, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\r\ncontent-length: ([0-9]+)", head)
    return bool(separator and length) and len(body) >= int(length[1])


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
    """Return a request for `body` that is damaged or sent in an unusual way.

    Returns:
        `(pieces, sent, cut)`: the pieces to send; the body that the server must
        understand, or None if it may reject the request; and whether the request is
        truncated.
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
        # Keep Content-Length correct, so that only the JSON or an image is damaged.
        damaged = altered(body, generator)
        return [whole(damaged)], damaged, False
    return [request[: generator.randrange(len(request))]], None, True


def readable(body):
    """Return the parsed JSON request, or None if it is invalid."""
    try:
        return json.loads(body)
    except ValueError:  # Includes UnicodeDecodeError.
        return None
