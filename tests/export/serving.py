"""Execution of an export in a separate process that cannot import Keras, or in this one.

Exports are written and run in processes of their own, which import TensorFlow for ten
seconds. Tests that do not check these processes do without them.
"""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
from unittest import mock

import keras
import numpy as np

from keras_vit.export import served_model
from keras_vit.kernels import attention, gelu

PROGRAM = pathlib.Path(__file__).with_name("program.py")


def serve(path, requests, folder, python=sys.executable):
    """Run requests in a process without Keras; return their outputs, and facts about it.

    A request is `(signature, argument, values)`, where the values are an array or a list
    of bytes. If a request raises an error, its output is the error message. The
    interpreter `python` needs TensorFlow only.
    """
    _write(requests, folder)
    process = subprocess.run(
        [python, "-P", PROGRAM, path, folder],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    facts = json.loads(process.stdout.splitlines()[-1])
    return _answers(len(requests), facts["errors"], folder), facts


def serve_here(path, requests, folder):
    """Run requests in this process; return their outputs."""
    from tests.export import program

    _write(requests, folder)
    errors = program.answer(str(path), folder)
    return _answers(len(requests), errors, folder)


def _write(requests, folder):
    folder, described = pathlib.Path(folder), []
    for number, (name, argument, values) in enumerate(requests):
        if isinstance(values, list):
            files = json.dumps([file.hex() for file in values])
            (folder / f"{number}.json").write_text(files)
            described.append((name, argument, "string"))
        else:
            np.save(folder / f"{number}.npy", values)
            described.append((name, argument, str(values.dtype)))
    (folder / "requests.json").write_text(json.dumps(described))


def _answers(count, errors, folder):
    answers = []
    for number in range(count):
        if str(number) in errors:
            answers.append(errors[str(number)])
            continue
        with np.load(pathlib.Path(folder) / f"{number}.npz") as results:
            answers.append(dict(results))
    return answers


@contextlib.contextmanager
def exports_here():
    """Return a context in which exports are written in this process under TensorFlow."""

    def run(staging):
        from keras_vit.export import tensorflow_process

        # The formats of single files change these for their whole process.
        with (
            mock.patch.object(attention, "BLOCKS_FROM", attention.BLOCKS_FROM),
            mock.patch.object(gelu, "POWERS", gelu.POWERS),
        ):
            tensorflow_process.main(staging)
        return json.loads((staging / "result.json").read_text())

    if keras.backend.backend() != "tensorflow":
        yield
        return
    with mock.patch.object(served_model, "_run_under_tensorflow", run):
        yield
