"""Worker process that measures one contestant; `runner.Worker` starts it.

The process reads requests from standard input and writes answers to standard output, one
JSON object per line:

    {"task": ".models.training", "parameters": {...}}  ->  {}
    {}                                                 ->  one measurement, in:
        {"values": {"step (s)": 1.2}, "device": "cpu", "peak_resident_bytes": 123456}

If a request fails, the answer is {"error": "..."}. The process ends at the end of its
input.
"""

import importlib
import json
import os
import sys
import traceback
from typing import Any

from recipes.benchmark import resident

# This module must not import NumPy or a framework, because the time of their import is
# one of the measurements.


def main():
    """Answer requests until the input ends."""
    # Redirect standard output to standard error, so that text that libraries print does
    # not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    measure: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if request:
                module, _, function = request["task"].rpartition(".")
                tasks = importlib.import_module(module, "recipes.benchmark.tasks")
                measure = getattr(tasks, function)(**request["parameters"])
            else:
                answer["values"] = measure()
                answer["device"] = device()
                answer["peak_resident_bytes"] = resident.peak_bytes()
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


def device():
    """Return the name of the device that the loaded framework uses."""
    backend = os.environ.get("KERAS_BACKEND")
    module = sys.modules.get(backend or "")
    if backend == "jax" and module:
        return module.devices()[0].device_kind
    if backend == "tensorflow" and module:
        for gpu in module.config.list_physical_devices("GPU"):
            return module.config.experimental.get_device_details(gpu)["device_name"]
    if backend == "torch" and module and module.cuda.is_available():
        return module.cuda.get_device_name()
    return "cpu"


if __name__ == "__main__":
    main()
