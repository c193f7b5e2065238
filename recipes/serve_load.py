"""Load test of a server with TF Serving's REST API: latency and images per second.

python -m recipes.serve_load URL MODEL IMAGE ... [--direct DIR]

Each client has its own connection and sends one image at a time, the next one as soon as
it has received the response. --direct also measures the export in DIR on the same images
in this process, without a server. Stop the server first if both use the same cores.
"""

import argparse
import base64
import http.client
import itertools
import json
import pathlib
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
            load = Load(options.url, options.model, files)
            start = time.monotonic()
            load.run(clients, options.seconds)
            rate = len(load.seconds) / (time.monotonic() - start)
            rows.append((f"{clients} at once", load.seconds, load.errors, rate))
    if options.direct:
        for batch in options.batches:
            seconds = direct(options.direct, files, batch, options.seconds)
            rows.append((f"direct, batch {batch}", seconds, 0, batch / np.mean(seconds)))
    print(
        "| | requests | errors | p50 ms | p99 ms | images/s |\n|---|---|---|---|---|---|"
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
        seconds: list of float, latency of each request.
        errors: int, number of responses with a status other than 200.
    """

    def __init__(self, url: str, model: str, files: list[bytes]):
        self._address = urllib.parse.urlsplit(url).netloc
        self._path = f"/v1/models/{model}:predict"
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
        self.errors = 0

    def run(self, clients: int, seconds: float) -> None:
        """Send requests for some time.

        A client whose connection fails stops with an exception.

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
        connection = http.client.HTTPConnection(self._address, timeout=600)
        for i in itertools.count(start):
            body = self._bodies[i % len(self._bodies)]
            begin = time.perf_counter()
            connection.request("POST", self._path, body)
            response = connection.getresponse()
            response.read()
            self.seconds.append(time.perf_counter() - begin)
            self.errors += response.status != 200
            if time.monotonic() >= end:
                break
        connection.close()


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
