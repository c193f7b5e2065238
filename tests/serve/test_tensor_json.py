"""JSON of the predict API."""

import json

import numpy as np
import pytest

pytest.importorskip("orjson", reason="the extra `serve`")

pytestmark = pytest.mark.any_backend


def test_the_forms_of_answers():
    from keras_vit.serve.tensor_json import write_answer

    numbers = np.array([[0.1, 1.0], [2.5e-9, 3.0]], "float32")
    names = np.array([[b"a", "ü".encode()], [b"", b"\xff"]], object)
    one = {"numbers": numbers}
    assert write_answer(one, True) == b'{"predictions":[[0.1,1.0],[2.5e-9,3.0]]}'
    assert write_answer(one, False) == b'{"outputs":[[0.1,1.0],[2.5e-9,3.0]]}'
    two = {"names": names, "n": np.array([1, 2], "int32"), "n_bytes": names[:, 1]}
    assert json.loads(write_answer(two, True)) == {
        "predictions": [
            {"names": ["a", "ü"], "n": 1, "n_bytes": {"b64": "w7w="}},
            {"names": ["", "�"], "n": 2, "n_bytes": {"b64": "/w=="}},
        ]
    }
    assert json.loads(write_answer(two, False)) == {
        "outputs": {
            "names": [["a", "ü"], ["", "�"]],
            "n": [1, 2],
            "n_bytes": [{"b64": "w7w="}, {"b64": "/w=="}],
        }
    }


def test_several_inputs():
    from keras_vit.serve.tensor_json import BadRequestError, Tensor, read_request

    numbers, names = (
        Tensor((None, 2), np.dtype("int32")),
        Tensor((None,), np.dtype(object)),
    )
    signatures = {"serving_default": {"a": numbers, "b": names}}

    def read(request):
        return read_request(json.dumps(request).encode(), signatures, 4, 1000)

    rows = [{"a": [1, 2], "b": "x"}, {"b": {"b64": "/w=="}, "a": [3, 4]}]
    for request in (
        {"instances": rows},
        {"inputs": {"a": [[1, 2], [3, 4]], "b": ["x", rows[1]["b"]]}},
    ):
        inputs = read(request).inputs
        assert inputs["a"].tolist() == [[1, 2], [3, 4]]
        assert inputs["a"].dtype == np.int32
        assert inputs["b"].tolist() == [b"x", b"\xff"]
    for request, message in [
        ({"instances": [[1, 2]]}, "several inputs: send objects with the keys a, b"),
        ({"inputs": [[1, 2]]}, "several inputs"),
        ({"inputs": {"a": [[1, 2]]}}, "Missing named input: b"),
        (
            {"inputs": {"a": [[1, 2]], "b": ["x", "y"]}},
            r"different batch sizes: \[1, 2\]",
        ),
    ]:
        with pytest.raises(BadRequestError, match=message):
            read(request)
