"""Alternating execution of cases (A B C A B C), each in its own worker process."""

import contextlib
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from recipes.benchmark.machine import worker_settings

ROOT = pathlib.Path(__file__).parents[2]

# Threads of the previously measured process may keep spinning for a moment.
PAUSE_SECONDS = 0.3


@dataclass(frozen=True)
class Case:
    """One contestant in one comparison.

    Attributes:
        group: name of the comparison; the cases of a group alternate.
        contestant: name of the contestant.
        task: `.module.function` in `recipes.benchmark.tasks`.
        parameters: dict of arguments for that function.
        backend: value of `KERAS_BACKEND` in the worker process.
        fresh: bool, whether to start a new process for each alternation.
        flops: number of floating-point operations of the timed computation, or None.
        device: name of the device that computes; None for that of the backend.
    """

    group: str
    contestant: str
    task: str
    parameters: dict[str, Any]
    backend: str
    fresh: bool = False
    flops: int | None = None
    device: str | None = None


@dataclass
class Row:
    """Results of one contestant for one figure, with one value for each alternation.

    If a contestant fails, all its rows in the group have the error. If it fails before
    its first measurement, it has a single row with the figure "".
    """

    group: str
    contestant: str
    figure: str
    flops: int | None = None
    device: str = ""
    peak_resident_bytes: int = 0
    values: list[float] = field(default_factory=list)
    error: str | None = None


class WorkerError(Exception):
    """Error in a worker process."""


class Worker:
    """Worker process that measures one case.

    Args:
        case: the case to measure.
        log: path of the file to which the output of the process is appended.
        timeout: float, time limit in seconds for each answer.

    Raises:
        WorkerError: if the preparation of the case fails.
    """

    def __init__(self, case: Case, log: pathlib.Path, timeout: float):
        environment = {
            # Several workers share the accelerator, so none may reserve all its memory.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            **os.environ,
            # The defaults of the command `keras-vit`, here for every contestant on JAX.
            **worker_settings(case.backend),
            "KERAS_BACKEND": case.backend,
        }
        self.contestant, self.log, self.timeout = case.contestant, log, timeout
        with log.open("a") as errors:
            print(f"== {case.group}: {case.contestant}", file=errors, flush=True)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "recipes.benchmark.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env=environment,
                # In its own session, the worker does not receive the terminal's Ctrl-C.
                start_new_session=True,
            )
        try:
            self._ask({"task": case.task, "parameters": case.parameters})
        except BaseException:
            self.close()
            raise

    def measure(self) -> dict[str, Any]:
        """Run one measurement.

        Returns:
            Dict with the keys `values`, `device` and `peak_resident_bytes`.

        Raises:
            WorkerError: if the measurement fails or times out, or the process has ended.
        """
        return self._ask({})

    def _ask(self, request):
        """Send a request and return the answer."""
        expired = threading.Event()

        def expire():
            expired.set()
            self._kill()

        assert self.process.stdin is not None
        assert self.process.stdout is not None
        timer = threading.Timer(self.timeout, expire)
        timer.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.write(json.dumps(request) + "\n")
                self.process.stdin.flush()
            line = self.process.stdout.readline()
        finally:
            timer.cancel()
        if expired.is_set():
            raise WorkerError(
                f"{self.contestant} gave no answer within {self.timeout:g} s and was "
                "killed. Use a larger --timeout if it is only slow, or exclude it with "
                "--contestants."
            )
        if not line:
            raise WorkerError(self._how_it_ended())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def _how_it_ended(self):
        status = self.process.wait()
        if status == -signal.SIGKILL:
            return (
                f"{self.contestant} was killed by SIGKILL, probably because the system "
                "ran out of memory. Use a smaller --batch or --variant."
            )
        return f"{self.contestant} ended with status {status}; see {self.log}."

    def _kill(self):
        """Kill the process and all processes that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the process."""
        self._kill()  # The worker has no state to save.
        self.process.communicate()


def run(
    cases: list[Case],
    alternations: int,
    timeout: float,
    log: pathlib.Path,
    rows: list[Row],
    progress: Callable[[str], None],
) -> None:
    """Measure all cases.

    A case that fails is not measured again.

    Args:
        cases: list of cases.
        alternations: int, number of measurements of each case.
        timeout: float, time limit in seconds for each answer of a worker.
        log: path of the file for the output of the workers.
        rows: list to which the results are added immediately, so that they are available
            even if this function is interrupted.
        progress: function that is called with a line of text after each measurement.
    """
    for _, members in itertools.groupby(cases, key=lambda case: case.group):
        _run_group(list(members), alternations, timeout, log, rows, progress)


def _run_group(cases, alternations, timeout, log, rows, progress):
    found: dict[tuple[str, str], Row] = {}
    workers: dict[str, Worker] = {}
    failed: set[str] = set()

    def row(case, figure):
        key = case.contestant, figure
        if key not in found:
            flops = case.flops if figure.endswith("(s)") else None
            found[key] = Row(case.group, case.contestant, figure, flops)
            rows.append(found[key])
        return found[key]

    def measure(case):
        name = case.contestant
        if name not in workers:
            workers[name] = Worker(case, log, timeout)
        time.sleep(PAUSE_SECONDS)
        answer = workers[name].measure()
        for figure, value in answer["values"].items():
            measured = row(case, figure)
            measured.values.append(value)
            measured.device = case.device or answer["device"]
            measured.peak_resident_bytes = max(
                answer["peak_resident_bytes"], measured.peak_resident_bytes
            )
        return ", ".join(f"{name} {v:.4g}" for name, v in answer["values"].items())

    try:
        for k in range(alternations):
            for case in cases:
                name = case.contestant
                if name in failed:
                    continue
                try:
                    outcome = measure(case)
                except WorkerError as error:
                    failed.add(name)
                    outcome = f"FAILED: {error}"
                    own = [r for r in found.values() if r.contestant == name]
                    for failing in own or [row(case, "")]:
                        failing.error = str(error)
                progress(f"{case.group}: {name}, {k + 1} of {alternations}: {outcome}")
                if name in workers and (case.fresh or name in failed):
                    workers.pop(name).close()
    finally:
        for worker in workers.values():
            worker.close()
