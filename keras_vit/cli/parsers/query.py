"""Classify image files with a TF Serving server, over gRPC.

keras-vit query HOST:PORT MODEL IMAGE ...

This needs pip install 'keras_vit[tf-serving]', and no Keras.
"""

import argparse
import pathlib
from collections.abc import Sequence


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command.

    Args:
        words: the arguments of the command.
    """
    parser = argparse.ArgumentParser(
        prog="keras-vit query",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("server", help="HOST:PORT, such as localhost:8500")
    parser.add_argument("model", help="name of the model on the server")
    parser.add_argument("images", nargs="+", type=pathlib.Path, help="image files")
    parser.add_argument("--timeout", type=float, default=10.0, help="in seconds")
    return parser.parse_args(words)
