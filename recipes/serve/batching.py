"""Requests that arrive together are run together."""

import asyncio
import concurrent.futures
import dataclasses
from collections.abc import Callable

import numpy as np

Run = Callable[[str, dict[str, np.ndarray]], dict[str, np.ndarray]]


@dataclasses.dataclass
class _Part:
    inputs: dict[str, np.ndarray]
    size: int
    outputs: asyncio.Future


class Batcher:
    """Collects inputs of one signature and one shape, and splits the outputs again.

    One batch runs at a time: TensorFlow uses all cores for it. What arrives meanwhile
    makes the next one.

    Args:
        run: function of a signature's name and of arrays by name, with a batch axis;
            returns the same of outputs. Called in a thread.
        max_batch: int, the most instances that are run together.
        delay: float, seconds that the first waits for others.
        observe: function that is told the signature and size of each batch.
    """

    def __init__(
        self,
        run: Run,
        max_batch: int,
        delay: float,
        observe: Callable[[str, int], None] = lambda signature, size: None,
    ):
        self._run = run
        self._max_batch = max_batch
        self._delay = delay
        self._observe = observe
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "batches")
        self._one = asyncio.Lock()
        # Parts that wait, by signature and shapes; each list has a task that works it
        # off, and goes with it.
        self._waiting: dict[tuple, list[_Part]] = {}
        self._tasks: set[asyncio.Task] = set()

    async def __call__(self, signature: str, inputs: dict) -> dict[str, np.ndarray]:
        """Outputs by name, for inputs with any number of instances."""
        size = len(next(iter(inputs.values())))
        starts = range(0, size, self._max_batch)
        parts = [
            self._add(
                signature,
                {name: array[i : i + self._max_batch] for name, array in inputs.items()},
            )
            for i in starts
        ]
        outputs = await asyncio.gather(*parts)
        if len(outputs) == 1:
            return outputs[0]
        return {name: np.concatenate([o[name] for o in outputs]) for name in outputs[0]}

    def _add(self, signature, inputs):
        size = len(next(iter(inputs.values())))
        part = _Part(inputs, size, asyncio.get_running_loop().create_future())
        shapes = tuple((name, array.shape[1:]) for name, array in inputs.items())
        key = (signature, shapes)
        if key in self._waiting:
            self._waiting[key].append(part)
        else:
            self._waiting[key] = [part]
            task = asyncio.create_task(self._work_off(key))
            self._tasks.add(task)  # The loop alone would let it be collected.
            task.add_done_callback(self._tasks.discard)
        return part.outputs

    async def _work_off(self, key):
        waiting = self._waiting[key]
        while waiting:
            if sum(part.size for part in waiting) < self._max_batch:
                await asyncio.sleep(self._delay)
            async with self._one:
                batch = [waiting.pop(0)]
                size = batch[0].size
                while waiting and size + waiting[0].size <= self._max_batch:
                    batch.append(waiting.pop(0))
                    size += batch[-1].size
                self._observe(key[0], size)
                await self._answer(key[0], batch)
        del self._waiting[key]

    async def _answer(self, signature, batch):
        loop = asyncio.get_running_loop()
        inputs = {
            name: np.concatenate([part.inputs[name] for part in batch])
            for name in batch[0].inputs
        }
        try:
            outputs = await loop.run_in_executor(
                self._thread, self._run, signature, inputs
            )
        except Exception as error:
            if len(batch) == 1:
                batch[0].outputs.set_exception(error)
                return
            for part in batch:  # One of them may have spoilt it for the others.
                await self._answer(signature, [part])
            return
        start = 0
        for part in batch:
            end = start + part.size
            part.outputs.set_result({k: v[start:end] for k, v in outputs.items()})
            start = end
