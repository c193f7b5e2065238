"""The command `keras-vit serve`."""

import argparse
import contextlib
import ctypes
import dataclasses
import logging
import os
import signal
import sys

from keras_vit.cli.quiet_start import quiet_start
from keras_vit.serve.limits import Limits

# Parameters of mallopt in glibc's malloc.h.
_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Args:
        options: the parsed options.
    """
    _prepare_process()
    try:
        # TensorFlow reads the environment when it is imported, so import it after
        # `_prepare_process`.
        with quiet_start():
            from keras_vit.serve.app import App
            from keras_vit.serve.model import Model
            from keras_vit.serve.server import Server
    except ImportError as error:
        sys.exit(f"error: {error}: pip install 'keras_vit[serve]'.")
    # TensorFlow warns that functions cannot be differentiated, which a server never does.
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        model = Model(options.directory)
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    app = App(
        model,
        options.name,
        Limits(**{f.name: getattr(options, f.name) for f in dataclasses.fields(Limits)}),
        options.max_batch,
        options.batch_delay / 1000,
        options.host,
        options.allow_host,
    )
    # uvicorn raises the signal that stopped it again after it has stopped. Ignore it, so
    # that the exit status is 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    Server(app, options.host, options.port).run()


def _prepare_process():
    _return_memory()
    # TensorFlow's allocator would never return the memory of a large image to the system.
    os.environ.setdefault("TF_ONEDNN_USE_SYSTEM_ALLOCATOR", "1")
    # TensorFlow's thread pool has one thread per core by default, all of which the
    # decoding of a large image can occupy while small requests wait.
    threads = max(16, 2 * (os.cpu_count() or 1))
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", str(threads))


def _return_memory():
    """Make glibc return the memory of large buffers to the system, if it is glibc.

    By default it keeps up to 32 MB in each of many arenas after they were freed: under
    attacks, 300 MB more than in use.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 2**20)
        mallopt(_M_ARENA_MAX, 4)
