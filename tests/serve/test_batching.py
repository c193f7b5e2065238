"""Batches of concurrent requests."""

import asyncio
import time

import numpy as np
import pytest

pytest.importorskip("orjson", reason="the extra `serve`")

pytestmark = pytest.mark.any_backend


def test_requests_together_are_run_together():
    from keras_vit.serve.batching import Batcher
    from keras_vit.serve.tensor_json import BadRequestError

    ran = []

    def run(signature, inputs):
        ran.append((signature, inputs["x"].tolist()))
        time.sleep(0.05)
        if -1 in inputs["x"]:
            raise BadRequestError("minus one")
        return {"twice": 2 * inputs["x"], "size": np.full(len(inputs["x"]), 1)}

    async def ask(batcher, values, signature="a"):
        return await batcher(signature, {"x": np.array(values)}, [0] * len(values))

    async def together():
        batcher = Batcher(run, max_batch=4, delay=0.02, max_work=100)
        requests = [[1], [2, 3], [4, 5], [6, 7, 8, 9, 10, 11], [[12]], [13]]
        names = "aaaaab"
        answers = await asyncio.gather(
            *(
                ask(batcher, values, name)
                for values, name in zip(requests, names, strict=True)
            )
        )
        assert [answer["twice"].tolist() for answer in answers] == [
            (2 * np.array(values)).tolist() for values in requests
        ]
        assert sorted(ran, key=str) == sorted(
            [
                ("a", [1, 2, 3]),
                ("a", [4, 5]),
                ("a", [6, 7, 8, 9]),
                ("a", [10, 11]),
                ("a", [[12]]),
                ("b", [13]),
            ],
            key=str,
        )
        # A failed request must not affect others in its batch.
        answers = await asyncio.gather(
            ask(batcher, [1]),
            ask(batcher, [-1]),
            ask(batcher, [2]),
            return_exceptions=True,
        )
        assert answers[0]["twice"].tolist() == [2]
        assert isinstance(answers[1], BadRequestError)
        assert answers[2]["twice"].tolist() == [4]
        assert batcher._waiting == {}

    asyncio.run(together())
