"""Runs cases in turn: A B C A B C, each in its process, one computing at a time."""

import contextlib
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

ROOT = pathlib.Path(__file__).parents[2]

# Threads of the process that was measured last may spin for a moment.
PAUSE_SECONDS = 0.3


@dataclass(frozen=True)
class Case:
    """One contestant in one comparison.

    Attributes:
        group: what is compared; cases of one group alternate.
        contestant: whose figures these are.
        task: `module.function` in `recipes.benchmark.tasks`.
        parameters: of that function.
        backend: `KERAS_BACKEND` of its process.
        fresh: whether each alternation has a new process.
        flops: floating-point operations of what is timed, where they are known.
    """

    group: str
    contestant: str
    task: str
    parameters: dict[str, Any]
    backend: str
    fresh: bool = False
    flops: int | None = None


@dataclass
class Row:
    """What was measured of one figure: a value an alternation."""

    group: str
    contestant: str
    figure: str
    flops: int | None = None
    device: str = ""
    peak_resident_bytes: int = 0
    values: list[float] = field(default_factory=list)
    error: str | None = None

    def record(self) -> dict[str, Any]:
        return asdict(self)


class WorkerError(Exception):
    """What went wrong in a worker."""


class Worker:
    """A process that measures one case."""

    def __init__(self, case: Case, log: pathlib.Path):
        environment = {
            # Several processes share an accelerator.
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            **os.environ,
            "KERAS_BACKEND": case.backend,
        }
        self.log = log
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
                start_new_session=True,  # Ctrl-C is for the program that runs it.
            )
        try:
            answer = self.ask({"build": case.task, "parameters": case.parameters})
        except BaseException:
            self.close()
            raise
        self.device = answer["device"]

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            WorkerError: the worker answers with an error, or no more.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            raise WorkerError(f"The process ended with status {status}; see {self.log}.")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def close(self) -> None:
        self.process.kill()  # It holds nothing that wants saving.
        self.process.communicate()


def run(
    cases: list[Case],
    alternations: int,
    log: pathlib.Path,
    progress: Callable[[str], None],
) -> list[Row]:
    """All figures of all cases.

    A case that fails has its error in a row and is left out from then on.
    """
    rows: list[Row] = []
    for group, members in itertools.groupby(cases, key=lambda case: case.group):
        rows += _run_group(group, list(members), alternations, log, progress)
    return rows


def _run_group(group, cases, alternations, log, progress):
    rows: dict[tuple, Row] = {}
    workers: dict[str, Worker] = {}
    failed: list[str] = []

    def row(case, figure, flops=None):
        new = Row(group, case.contestant, figure, flops)
        return rows.setdefault((case.contestant, figure), new)

    try:
        for k in range(alternations):
            for case in cases:
                if case.contestant in failed:
                    continue
                label = f"{group}: {case.contestant}, {k + 1} of {alternations}"
                try:
                    if case.contestant not in workers:
                        workers[case.contestant] = Worker(case, log)
                    worker = workers[case.contestant]
                    time.sleep(PAUSE_SECONDS)
                    values = worker.ask({"measure": True})["values"]
                    peak = worker.ask({"peak_memory": True})["bytes"]
                except WorkerError as error:
                    failed.append(case.contestant)
                    row(case, "error").error = str(error)
                    progress(f"{label}: FAILED: {error}")
                    if case.contestant in workers:
                        workers.pop(case.contestant).close()
                    continue
                for figure, value in values.items():
                    flops = case.flops if figure.endswith("(s)") else None
                    measured = row(case, figure, flops)
                    measured.values.append(value)
                    measured.device = worker.device
                    measured.peak_resident_bytes = max(peak, measured.peak_resident_bytes)
                figures = ", ".join(f"{name} {v:.4g}" for name, v in values.items())
                progress(f"{label}: {figures}")
                if case.fresh:
                    workers.pop(case.contestant).close()
    finally:
        for worker in workers.values():
            worker.close()
    return list(rows.values())
