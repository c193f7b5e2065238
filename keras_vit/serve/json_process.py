"""Separate process that parses and writes large JSON.

Parsing holds Python's global lock: 12 MB of `[],` would block the server for seconds. The
process has a lower priority and handles one call at a time.
"""

import gc
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import threading
from typing import Any

from keras_vit.serve import tensor_json

_ROOT = pathlib.Path(__file__).parents[2]
_NICENESS = 10


class JsonProcess:
    """Client of a process that runs functions of `tensor_json`, started on first use."""

    def __init__(self):
        self._process = None
        self._lock = threading.Lock()

    def __call__(self, function: str, *arguments) -> Any:
        """Return the result of `tensor_json.<function>(*arguments)`, or raise its error.

        Args:
            function: str, name of the function.
            *arguments: its positional arguments; they must be picklable.

        Raises:
            ChildProcessError: the process died, for example because it ran out of memory.
                The next call starts a new process.
        """
        with self._lock:
            process = self._running()
            try:
                pickle.dump((function, arguments), process.stdin, protocol=5)
                process.stdin.flush()
                result, error = pickle.load(process.stdout)
            except BaseException as problem:
                # Whatever the problem is, half a message may be left in a pipe.
                process.kill()
                code = process.wait()
                if not isinstance(problem, OSError | EOFError | pickle.UnpicklingError):
                    raise
                message = f"The process that parses JSON died with status {code}."
                raise ChildProcessError(message) from problem
        if error is not None:
            raise error
        return result

    def _running(self):
        if self._process is None or self._process.poll() is not None:
            paths = [str(_ROOT), os.environ.get("PYTHONPATH")]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "keras_vit.serve.json_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            )
        return self._process


def _serve():
    # Signals are ignored here: the parent closes this process's standard input after it
    # has answered all requests.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(_NICENESS)
    # JSON has no reference cycles, and searching for them would take most of the time.
    gc.disable()
    calls, results = sys.stdin.buffer, sys.stdout.buffer
    while True:
        try:
            function, arguments = pickle.load(calls)
        except EOFError:
            return
        answer: tuple[Any, Exception | None]
        try:
            answer = getattr(tensor_json, function)(*arguments), None
        except (tensor_json.BadRequestError, MemoryError) as error:
            answer = None, error.with_traceback(None)
        del arguments
        pickle.dump(answer, results, protocol=5)
        results.flush()
        del answer


if __name__ == "__main__":
    _serve()
