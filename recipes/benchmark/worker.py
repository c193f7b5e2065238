"""The process that one contestant lives in; the other end is `runner.Worker`.

It reads requests and writes answers, one JSON object a line:

    {"task": ".models.training", "parameters": {...}}  ->  {}
    {}                                                 ->  one measurement, in:
        {"values": {"step (s)": 1.2}, "device": "cpu", "peak_resident_bytes": 123456}

An error is answered as {"error": "..."}. The end of the requests ends the process.
"""

import importlib
import json
import os
import sys
import traceback
from typing import Any

from recipes.benchmark import resident

# No framework and no NumPy here: what importing them takes is measured in here too.


def main():
    # What libraries print goes where their warnings go, not among the answers.
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
    """What the framework that is loaded computes on."""
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
