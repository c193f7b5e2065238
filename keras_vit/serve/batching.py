"""Dynamic batching of concurrent requests."""

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
    """Batcher that merges requests of one signature and shape and splits the outputs.

    Batches run one at a time, because each of them uses all cores in TensorFlow. Requests
    that arrive during a batch form the next one; those with the fewest pixels to decode
    go first.

    Args:
        run: function that takes the name of a signature and a dict of input arrays with a
            batch axis, and returns a dict of output arrays. It is called in a thread.
        max_batch: int, largest number of instances in a batch.
        delay: float, seconds that the first request waits for others.
        max_work: int, largest number of pixels that are decoded in a batch; a larger
            image forms a batch alone.
        observe: function that is called with the signature and the size of each batch.
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
        # Pending parts by signature and shapes. Each list has a task that empties it and
        # then removes it.
        self._waiting: dict[tuple, list[_Part]] = {}
        self._tasks: set[asyncio.Task] = set()

    async def __call__(
        self, signature: str, inputs: dict, work: Sequence[int]
    ) -> dict[str, np.ndarray]:
        """Run inputs with any number of instances and return the outputs by name.

        Args:
            signature: name of the signature.
            inputs: dict of arrays with a batch axis.
            work: number of pixels to decode for each instance.

        Returns:
            Dict of arrays with the same batch axis.
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
            # asyncio keeps only weak references to tasks.
            self._tasks.add(task)
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
            if not part.outputs.done():  # Skip requests that have been cancelled.
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
            for part in batch:  # Only one of the requests may be at fault.
                await self._answer(signature, [part])
            return
        start = 0
        for part in batch:
            end = start + part.size
            if not part.outputs.done():
                part.outputs.set_result({k: v[start:end] for k, v in outputs.items()})
            start = end
