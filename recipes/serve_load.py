"""Load test of a server with TF Serving's REST API: latency and images per second.

python -m recipes.serve_load URL MODEL IMAGE ... [--direct DIR]

Each client has its own connection and sends one image at a time, the next one as soon as
it has received the response. Latencies and images per second are those of responses with
status 200; all others are errors. --direct also measures the export in DIR on the same
images in this process, without a server. Stop the server first if both use the same
cores.
"""

import argparse
import base64
import contextlib
import http.client
import itertools
import json
import pathlib
import sys
import threading
import time
import urllib.parse

import numpy as np


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.serve_load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", help="such as http://127.0.0.1:8501; - for --direct only")
    parser.add_argument("model", help="name of the model on the server")
    parser.add_argument("images", nargs="+", type=pathlib.Path, help="image files")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32], metavar="N")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32], metavar="N")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each test")
    parser.add_argument("--direct", metavar="DIR", help="directory of the versions")
    options = parser.parse_args(arguments)
    files = [path.read_bytes() for path in options.images]
    rows = []
    if options.url != "-":
        for clients in options.clients:
            try:
                load = Load(options.url, options.model, files)
            except ValueError as error:
                parser.error(str(error))
            start = time.monotonic()
            load.run(clients, options.seconds)
            rate = len(load.seconds) / (time.monotonic() - start)
            if not load.seconds:
                sys.exit(f"{load.url} answered no request: {load.errors[0]}")
            rows.append((f"{clients} at once", load.seconds, len(load.errors), rate))
    if options.direct:
        for batch in options.batches:
            seconds = direct(options.direct, files, batch, options.seconds)
            rows.append((f"direct, batch {batch}", seconds, 0, batch / np.mean(seconds)))
    print(
        "| | answered | errors | p50 ms | p99 ms | images/s |\n|---|---|---|---|---|---|"
    )
    for name, seconds, errors, rate in rows:
        p50, p99 = np.percentile(seconds, [50, 99]) * 1000
        print(
            f"| {name} | {len(seconds)} | {errors} | {p50:.1f} | {p99:.1f} | {rate:.1f} |"
        )


class Load:
    """Load generator with several clients, each in its own thread.

    Args:
        url: str, URL of the server, `http://host:port`.
        model: str, name of the model on the server.
        files: list of bytes, image files.

    Attributes:
        url: str, URL of the requests.
        seconds: list of float, latency of each response with status 200.
        errors: list of str, other responses, and connections that failed.

    Raises:
        ValueError: the URL has another form.
    """

    def __init__(self, url: str, model: str, files: list[bytes]):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "http" or not parts.netloc:
            raise ValueError(
                f"The URL of the server must be http://HOST:PORT; received {url!r}."
            )
        self._address = parts.netloc
        self._path = f"/v1/models/{model}:predict"
        self.url = f"http://{self._address}{self._path}"
        self._bodies = [
            json.dumps(
                {
                    "signature_name": "predict_bytes",
                    "instances": [{"b64": base64.b64encode(file).decode("ascii")}],
                }
            )
            for file in files
        ]
        self.seconds: list[float] = []
        self.errors: list[str] = []

    def run(self, clients: int, seconds: float) -> None:
        """Send requests for some time.

        A client whose connection fails stops.

        Args:
            clients: int, number of clients.
            seconds: float, duration.
        """
        end = time.monotonic() + seconds
        threads = [
            threading.Thread(target=self._client, args=(i, end)) for i in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _client(self, start, end):
        try:
            connection = http.client.HTTPConnection(self._address, timeout=600)
            with contextlib.closing(connection):
                for i in itertools.count(start):
                    self._request(connection, self._bodies[i % len(self._bodies)])
                    if time.monotonic() >= end:
                        break
        except (OSError, http.client.HTTPException) as error:
            self.errors.append(f"{type(error).__name__}: {error}")

    def _request(self, connection, body):
        begin = time.perf_counter()
        connection.request("POST", self._path, body)
        response = connection.getresponse()
        content = response.read()
        if response.status == 200:
            self.seconds.append(time.perf_counter() - begin)
        else:
            text = content[:200].decode(errors="replace")
            self.errors.append(f"{response.status} {response.reason}: {text}")


def direct(directory, files, batch, limit):
    """Measure calls of the signature `predict_bytes` with a batch of files.

    Args:
        directory: directory with the versions of the export.
        files: list of bytes, image files.
        batch: int, number of images in a batch.
        limit: float, duration in seconds.

    Returns:
        List of the seconds of each call.
    """
    from keras_vit.serve.model import Model

    model = Model(directory)
    contents = np.array(list(itertools.islice(itertools.cycle(files), batch)), object)
    inputs = {"image_bytes": contents}
    model.run("predict_bytes", inputs)  # The first call optimizes the graph.
    seconds: list[float] = []
    end = time.monotonic() + limit
    while not seconds or time.monotonic() < end:
        begin = time.perf_counter()
        model.run("predict_bytes", inputs)
        seconds.append(time.perf_counter() - begin)
    return seconds


if __name__ == "__main__":
    main()
