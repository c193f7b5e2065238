"""Clients that attack a server of recipes.serve, for its tests."""

import base64
import io
import json
import socket
import struct
import threading
import time
import zlib

from PIL import Image

HEAD = "POST /v1/models/vit:predict HTTP/1.1\r\nHost: localhost\r\n"


def head(*lines):
    """The head of a predict request."""
    return (HEAD + "".join(f"{line}\r\n" for line in lines) + "\r\n").encode()


def request(*files, signature="predict_bytes"):
    """A whole request with these image files."""
    instances = [{"b64": base64.b64encode(file).decode()} for file in files]
    return whole(json.dumps({"signature_name": signature, "instances": instances}))


def whole(body):
    """A whole request with this body."""
    body = body.encode() if isinstance(body, str) else body
    return head("Connection: close", f"Content-Length: {len(body)}") + body


def saved(image, kind, **options):
    """The file of a Pillow image."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def many_scans(scans, side=1000):
    """A progressive JPEG with additional scans."""
    file = saved(Image.new("RGB", (side, side), (9, 8, 7)), "JPEG", progressive=True)
    last = file.rindex(b"\xff\xda")
    return file[:-2] + file[last:-2] * scans + file[-2:]


def many_frames(frames, side=4096, declared=None):
    """A GIF of frames with `side`**2 pixels, whose header may declare another size."""
    file = saved(Image.new("P", (side, side)), "GIF")
    colors = 3 << (file[10] % 8 + 1) if file[10] & 0x80 else 0
    start, frame = file[: 13 + colors], file[13 + colors : -1]
    if declared is not None:
        start = start[:6] + struct.pack("<HH", *declared) + start[10:]
    return start + frame * frames + b";"


def compressed_text(chunks):
    """A PNG with chunks that each inflate to 8 MB."""
    file = saved(Image.new("RGB", (10, 10)), "PNG")
    text = zlib.compress(b"\0" * 7_900_000, 9)

    def chunk(keyword):
        data = b"zTXt" + keyword + b"\0\0" + text
        return (
            struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
        )

    return file[:33] + b"".join(chunk(b"%d" % i) for i in range(chunks)) + file[33:]


def large_png(side=5790):
    """A valid PNG of 33 megapixels."""
    return saved(Image.new("RGB", (side, side), (9, 8, 7)), "PNG")


class Attack:
    """Clients that send until they are stopped.

    Args:
        port: int, of the server.
    """

    def __init__(self, port: int):
        self._port = port
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []
        self.statuses: dict[str, set[int]] = {}

    def repeat(self, name, content, clients=1, pause=0.1):
        """Send a whole request again and again, and read the answers."""

        def send(connection):
            connection.sendall(content)
            if answer := connection.recv(2**16):
                self.statuses.setdefault(name, set()).add(int(answer.split()[1]))
            while answer:
                answer = connection.recv(2**16)
            time.sleep(pause)

        self._start(send, clients)

    def trickle(self, start, clients, receive=None):
        """Send the start of a request, then one byte after another, and read nothing.

        An error says that the server closed the connection.
        """

        def send(connection):
            connection.sendall(start)
            while not self._stopped.wait(0.5):
                connection.sendall(b" ")

        self._start(send, clients, receive)

    def never_read(self, content, clients):
        """Send a whole request and read nothing, with room for little of the answer."""
        self.trickle(content, clients, receive=4096)

    def _start(self, send, clients, receive=None):
        def run():
            while not self._stopped.is_set():
                try:
                    with socket.socket() as connection:
                        if receive:
                            option = (socket.SOL_SOCKET, socket.SO_RCVBUF)
                            connection.setsockopt(*option, receive)
                        connection.settimeout(60)
                        connection.connect(("127.0.0.1", self._port))
                        send(connection)
                except OSError:
                    self._stopped.wait(0.2)

        for _ in range(clients):
            thread = threading.Thread(target=run, daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self):
        """Let the clients end."""
        self._stopped.set()
