"""Clients that attack a server of keras_vit.serve, for its tests."""

import asyncio
import base64
import io
import json
import os
import socket
import struct
import sys
import zlib

from PIL import Image

HEAD = "POST /v1/models/vit:predict HTTP/1.1\r\nHost: localhost\r\n"


def head(*lines):
    """Return the head of a predict request."""
    return (HEAD + "".join(f"{line}\r\n" for line in lines) + "\r\n").encode()


def request(*files, signature="predict_bytes"):
    """Return a complete request with the given image files."""
    instances = [{"b64": base64.b64encode(file).decode()} for file in files]
    return whole(json.dumps({"signature_name": signature, "instances": instances}))


def whole(body):
    """Return a complete request with the given body."""
    body = body.encode() if isinstance(body, str) else body
    return head("Connection: close", f"Content-Length: {len(body)}") + body


def saved(image, kind, **options):
    """Return the bytes of a Pillow image saved in a format."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def many_scans(scans, side=1000):
    """Return a progressive JPEG with additional scans."""
    file = saved(Image.new("RGB", (side, side), (9, 8, 7)), "JPEG", progressive=True)
    last = file.rindex(b"\xff\xda")
    return file[:-2] + file[last:-2] * scans + file[-2:]


def many_frames(frames, side=4096, declared=None):
    """Return a GIF of frames with `side`**2 pixels.

    The header may declare another size.
    """
    file = saved(Image.new("P", (side, side)), "GIF")
    colors = 3 << (file[10] % 8 + 1) if file[10] & 0x80 else 0
    start, frame = file[: 13 + colors], file[13 + colors : -1]
    if declared is not None:
        start = start[:6] + struct.pack("<HH", *declared) + start[10:]
    return start + frame * frames + b";"


def compressed_text(chunks):
    """Return a PNG with chunks that each inflate to 8 MB."""
    file = saved(Image.new("RGB", (10, 10)), "PNG")
    text = zlib.compress(b"\0" * 7_900_000, 9)

    def chunk(keyword):
        data = b"zTXt" + keyword + b"\0\0" + text
        return (
            struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
        )

    return file[:33] + b"".join(chunk(b"%d" % i) for i in range(chunks)) + file[33:]


def large_png(side=5790):
    """Return a valid PNG of 33 megapixels."""
    return saved(Image.new("RGB", (side, side), (9, 8, 7)), "PNG")


class Attack:
    """Clients in one event loop that send requests until they are stopped.

    Args:
        port: int, port of the server.
    """

    def __init__(self, port: int):
        self._port = port
        self._clients: list[asyncio.Task] = []
        self.statuses: dict[str, set[int]] = {}

    def repeat(self, name, content, clients=1, pause=0.1):
        """Send a complete request repeatedly and read the answers."""

        async def send(connection):
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(connection, content)
            if answer := await loop.sock_recv(connection, 2**16):
                self.statuses.setdefault(name, set()).add(int(answer.split()[1]))
            while answer:
                answer = await loop.sock_recv(connection, 2**16)
            await asyncio.sleep(pause)

        self._start(send, clients)

    def trickle(self, start, clients, receive=None):
        """Send the start of a request, then single bytes, without reading anything.

        An error means that the server closed the connection.
        """

        async def send(connection):
            loop = asyncio.get_running_loop()
            await loop.sock_sendall(connection, start)
            while True:
                await asyncio.sleep(0.5)
                await loop.sock_sendall(connection, b" ")

        self._start(send, clients, receive)

    def never_read(self, content, clients):
        """Send a complete request and read nothing, with a small receive buffer."""
        self.trickle(content, clients, receive=4096)

    def _start(self, send, clients, receive=None):
        async def run():
            while True:
                try:
                    with socket.socket() as connection:
                        if receive:
                            option = (socket.SOL_SOCKET, socket.SO_RCVBUF)
                            connection.setsockopt(*option, receive)
                        connection.setblocking(False)
                        loop = asyncio.get_running_loop()
                        async with asyncio.timeout(60):
                            await loop.sock_connect(connection, ("127.0.0.1", self._port))
                            await send(connection)
                except OSError:  # Includes TimeoutError.
                    await asyncio.sleep(0.2)

        self._clients += [asyncio.create_task(run()) for _ in range(clients)]

    def all_at_once(self, scale):
        """Start all attacks, with `scale` times the slow clients."""
        self.repeat("scans", request(many_scans(2000)))
        self.repeat("frames", request(many_frames(60)))
        self.repeat("larger frame", request(many_frames(4, declared=(1, 1))))
        self.repeat("large images", request(*[large_png()] * 32))
        self.repeat("text", request(compressed_text(100)))
        self.repeat("lists", whole(b'{"instances": [' + b"[]," * 10**7 + b"0]}"))
        lengths = "Content-Length: 24000000", "Transfer-Encoding: chunked"
        self.repeat("lengths", head(*lengths))
        self.trickle(head("Content-Length: 1000000"), scale)
        unfinished = head("Content-Length: 30000000") + b" " * 24_000_000
        self.trickle(unfinished, scale // 10)
        images = [[[[0, 0, 0]]]] * 256
        body = {"signature_name": "features", "instances": images}
        self.never_read(whole(json.dumps(body)), scale // 3)


async def _attack(port, scale):
    attack = Attack(port)
    attack.all_at_once(scale)
    print("attacking", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    statuses = {name: sorted(found) for name, found in attack.statuses.items()}
    print(json.dumps(statuses), flush=True)
    os._exit(0)  # Exits without closing hundreds of connections.


if __name__ == "__main__":
    # The attack runs in its own process to leave the healthy client its own interpreter.
    asyncio.run(_attack(int(sys.argv[1]), int(sys.argv[2])))
