"""Requests that arrive together are run together."""

import asyncio
import bisect
import concurrent.futures
import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

Run = Callable[[str, dict[str, np.ndarray]], dict[str, np.ndarray]]


@dataclasses.dataclass
class _Part:
    inputs: dict[str, np.ndarray]
    size: int
    work: int
    order: int
    outputs: asyncio.Future


class Batcher:
    """Collects inputs of one signature and one shape, and splits the outputs again.

    One batch runs at a time: TensorFlow uses all cores for it. What arrives meanwhile
    makes the next one; requests with little work go first.

    Args:
        run: function of a signature's name and of arrays by name, with a batch axis;
            returns the same of outputs. Called in a thread.
        max_batch: int, the most instances that are run together.
        delay: float, seconds that the first waits for others.
        max_work: int, the most pixels that are decoded together; a larger image is
            decoded alone.
        observe: function that is told the signature and size of each batch.
    """

    def __init__(
        self,
        run: Run,
        max_batch: int,
        delay: float,
        max_work: int,
        observe: Callable[[str, int], None] = lambda signature, size: None,
    ):
        self._run = run
        self._max_batch = max_batch
        self._delay = delay
        self._max_work = max_work
        self._observe = observe
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "batches")
        self._one = asyncio.Lock()
        # Parts that wait, by signature and shapes; each list has a task that works it
        # off, and goes with it.
        self._waiting: dict[tuple, list[_Part]] = {}
        self._tasks: set[asyncio.Task] = set()

    async def __call__(
        self, signature: str, inputs: dict, work: Sequence[int]
    ) -> dict[str, np.ndarray]:
        """Return outputs by name, for inputs with any number of instances.

        Args:
            signature: name of the signature.
            inputs: arrays by name.
            work: for each instance, the pixels that are decoded for it.
        """
        parts = [
            self._add(
                signature,
                {name: array[start:end] for name, array in inputs.items()},
                sum(work[start:end]),
                sum(work),
            )
            for start, end in self._slices(work)
        ]
        outputs = await asyncio.gather(*parts)
        if len(outputs) == 1:
            return outputs[0]
        return {name: np.concatenate([o[name] for o in outputs]) for name in outputs[0]}

    def _slices(self, work):
        start = 0
        for end in range(1, len(work) + 1):
            if end == len(work) or not self._fits(
                end + 1 - start, sum(work[start : end + 1])
            ):
                yield start, end
                start = end

    def _fits(self, size, work):
        return size <= self._max_batch and work <= self._max_work

    def _add(self, signature, inputs, work, order):
        size = len(next(iter(inputs.values())))
        outputs = asyncio.get_running_loop().create_future()
        part = _Part(inputs, size, work, order, outputs)
        shapes = tuple((name, array.shape[1:]) for name, array in inputs.items())
        key = (signature, shapes)
        if key in self._waiting:
            bisect.insort(self._waiting[key], part, key=lambda part: part.order)
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
                batch = self._next(waiting)
                if batch:
                    self._observe(key[0], sum(part.size for part in batch))
                    await self._answer(key[0], batch)
        del self._waiting[key]

    def _next(self, waiting):
        batch: list[_Part] = []
        size = work = 0
        while waiting:
            part = waiting[0]
            if not part.outputs.done():  # Otherwise nobody waits for it any more.
                size, work = size + part.size, work + part.work
                if batch and not self._fits(size, work):
                    break
                batch.append(part)
            del waiting[0]
        return batch

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
                if not batch[0].outputs.done():
                    batch[0].outputs.set_exception(error)
                return
            for part in batch:  # One of them may have spoilt it for the others.
                await self._answer(signature, [part])
            return
        start = 0
        for part in batch:
            end = start + part.size
            if not part.outputs.done():
                part.outputs.set_result({k: v[start:end] for k, v in outputs.items()})
            start = end
