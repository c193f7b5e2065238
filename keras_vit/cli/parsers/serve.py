"""Serve a SavedModel over TF Serving's REST API, without TF Serving and without Keras.

keras-vit serve DIR

DIR is a directory that keras-vit export wrote to; the highest version in it is served.
Clients of TF Serving work unchanged: POST /v1/models/NAME:predict, GET /v1/models/NAME
and GET /v1/models/NAME/metadata. http://HOST:PORT/ is a page to try the model on images.
/healthz reports whether the server accepts requests, and /monitoring/prometheus/metrics
has its metrics.

SIGTERM and SIGINT stop the server after it has answered all pending requests.
"""

import argparse
import pathlib
import re
from collections.abc import Sequence

from keras_vit.serve.limits import Limits


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command.

    Args:
        words: the arguments of the command.
    """
    parser = argparse.ArgumentParser(
        prog="keras-vit serve",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    limits = Limits()

    def add(name, default, text, kind=int):
        help_text = f"{text} (default: %(default)s)"
        parser.add_argument(name, type=kind, default=default, help=help_text)

    parser.add_argument("directory", metavar="DIR", help="directory of an export")
    parser.add_argument("--name", help="name in URLs (default: the name of DIR)")
    add("--host", "127.0.0.1", "address to listen on; 0.0.0.0 for all", str)
    add("--port", 8501, "port to listen on; 0 for any free port", _port)
    add("--max-batch", 32, "largest number of instances in a batch", _positive)
    add("--batch-delay", 2.0, "milliseconds that a request waits for others", _number)
    add("--max-body", limits.max_body, "bytes in the body of a request", _positive)
    add("--max-instances", limits.max_instances, "instances in a request", _positive)
    add("--max-waiting", limits.max_waiting, "requests in progress or waiting", _positive)
    add("--max-pixels", limits.max_pixels, "pixels to decode for a request", _positive)
    add("--max-values", limits.max_values, "values in the JSON of a request", _positive)
    add("--max-answer", limits.max_answer, "values in a response", _positive)
    add("--deadline", limits.deadline, "seconds to answer a request", _seconds)
    add("--body-timeout", limits.body_timeout, "seconds to receive a body", _seconds)
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="an additional host name that clients may use; * for any. IP addresses, "
        "localhost and the name of this machine are always allowed",
    )
    options = parser.parse_args(words)
    if options.name is None:
        options.name = pathlib.Path(options.directory).resolve().name
    if not re.fullmatch(r"[\w.-]+", options.name, re.ASCII):
        parser.error(
            "The name of a model is part of a URL and must consist of letters, digits, "
            f"'_', '-' and '.'; received {options.name!r}. Set --name."
        )
    return options


def _positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more; received {value}")
    return value


def _port(text):
    value = int(text)
    if not 0 <= value < 2**16:
        raise argparse.ArgumentTypeError(f"must be 0 to 65535; received {value}")
    return value


def _number(text):
    value = float(text)
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"must be 0 or more; received {value}")
    return value


def _seconds(text):
    value = _number(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be more than 0; received 0")
    return value
