"""Conversion between arrays and the JSON of TF Serving's REST predict API."""

import base64
import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

DEFAULT_SIGNATURE = "serving_default"

# Types of JSON values that are allowed for each kind of dtype.
_TYPES: dict[str, set[type]] = {
    "f": {int, float},
    "i": {int},
    "u": {int},
    "b": {bool},
    "O": {str, dict},
}
_PART = 2**20  # Bytes of JSON that are counted at a time.
_NAMES = {dict: "object", list: "list", type(None): "null"}


class BadRequestError(ValueError):
    """Error for an invalid request, with a message for the client."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Specification of an input of a signature.

    Args:
        shape: tuple of ints, with None for dimensions of any size.
        dtype: NumPy dtype; `object` for strings.
    """

    shape: tuple[int | None, ...]
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Request:
    """Parsed predict request.

    Args:
        signature: name of the signature.
        inputs: dict of arrays with a batch axis.
        by_rows: bool, whether the request and its response are in TF Serving's row
            format, a list of instances.
    """

    signature: str
    inputs: dict[str, np.ndarray]
    by_rows: bool

    @property
    def size(self) -> int:
        """Return the number of instances."""
        return len(next(iter(self.inputs.values())))


def read_request(
    body: bytes | bytearray,
    signatures: Mapping[str, Mapping[str, Tensor]],
    max_instances: int,
    max_values: int,
) -> Request:
    """Parse the body of a predict request.

    Args:
        body: JSON object with `instances` or `inputs`, and optionally `signature_name`.
        signatures: dict from the name of each signature to its inputs, a dict from names
            to `Tensor`.
        max_instances: int, largest number of instances in a request.
        max_values: int, largest number of values, lists and objects in the JSON.

    Returns:
        A `Request`.

    Raises:
        BadRequestError: the body is not valid JSON, or does not match the signature.

    Reference: https://www.tensorflow.org/tfx/serving/api_rest. Deviations: numbers must
    be finite, and instances must match the shape of the signature.
    """
    check_values(body, max_values)
    try:
        request = orjson.loads(body)
    except ValueError as error:
        raise BadRequestError(f"JSON Parse error: {error}") from None
    if not isinstance(request, dict):
        raise BadRequestError("The JSON must be an object.")
    name = request.get("signature_name", "")
    if not isinstance(name, str):
        raise BadRequestError("'signature_name' key must be a string value.")
    name = name or DEFAULT_SIGNATURE
    if name not in signatures:
        raise BadRequestError(
            f'Serving signature name: "{name[:80]}" not found in signature def; the '
            f"model has {', '.join(sorted(signatures))}."
        )
    if ("instances" in request) == ("inputs" in request):
        if "inputs" in request:
            raise BadRequestError("Only one of 'inputs' and 'instances' may be given.")
        raise BadRequestError("Missing 'inputs' or 'instances' key.")
    by_rows = "instances" in request
    tensors = signatures[name]
    columns = _columns_of_rows if by_rows else _columns
    values = columns(request["instances" if by_rows else "inputs"], tensors)
    inputs = {key: _array(key, values[key], tensors[key]) for key in tensors}
    sizes = {len(array) for array in inputs.values()}
    if len(sizes) > 1:
        raise BadRequestError(f"Inputs have different batch sizes: {sorted(sizes)}.")
    (size,) = sizes
    if not 1 <= size <= max_instances:
        raise BadRequestError(
            f"A request must have 1 to {max_instances} instances; received {size}."
        )
    return Request(name, inputs, by_rows)


def check_values(body: bytes | bytearray, max_values: int) -> int:
    """Return an upper bound on the values, lists and objects in unparsed JSON.

    Args:
        body: JSON text.
        max_values: int, upper limit of the result. A parsed list can take 50 times the
            memory of its text.

    Raises:
        BadRequestError: the JSON has more values.
    """
    text = np.frombuffer(body, np.uint8)
    parts = [text[i : i + _PART] for i in range(0, len(text), _PART)]
    count = sum(int(np.count_nonzero(part == ord(c))) for part in parts for c in ",[{")
    if count > max_values:
        raise BadRequestError(
            f"The JSON has {count} values, lists and objects; this server accepts "
            f"{max_values} (--max-values). Send fewer images, or image files."
        )
    return count


def _columns_of_rows(instances, tensors):
    if not isinstance(instances, list) or not instances:
        raise BadRequestError("'instances' must be a list with at least one value.")
    if not _is_named(instances[0]):
        return _single(instances, tensors)
    for i, instance in enumerate(instances):
        if not _is_named(instance) or instance.keys() != tensors.keys():
            raise BadRequestError(
                f"Element {i} of 'instances' must be an object with the keys "
                f"{', '.join(sorted(tensors))}."
            )
    return {name: [instance[name] for instance in instances] for name in tensors}


def _columns(inputs, tensors):
    if not _is_named(inputs):
        return _single(inputs, tensors)
    for name in tensors:
        if name not in inputs:
            raise BadRequestError(f"Missing named input: {name} in 'inputs' object.")
    return inputs


def _single(value, tensors):
    if len(tensors) > 1:
        raise BadRequestError(
            "Received a plain list, but the signature has several inputs: send objects "
            f"with the keys {', '.join(sorted(tensors))}."
        )
    return dict.fromkeys(tensors, value)


def _is_named(value):
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value):
    return (
        isinstance(value, dict)
        and value.keys() == {"b64"}
        and isinstance(value["b64"], str)
    )


def _array(name, value, tensor):
    # Flatten level by level instead of calling np.array(value), which would convert
    # booleans and strings to numbers, and allocate the length of the longest string for
    # every element.
    shape: list[int] = []
    values = [value]
    while (types := set(map(type, values))) == {list}:
        lengths = set(map(len, values))
        if len(lengths) > 1:
            break
        shape.extend(lengths)
        values = list(itertools.chain.from_iterable(values))
    if list in types:
        raise BadRequestError(f"The lists of {name} differ in length or depth.")
    wanted = tensor.shape
    if len(shape) != len(wanted) or any(
        size not in (None, received)
        for size, received in zip(wanted, shape, strict=False)
    ):
        raise BadRequestError(
            f"{name} must have shape {_shape_text(wanted)} with the batch axis; received "
            f"{_shape_text(shape)}."
        )
    kind = tensor.dtype.kind
    if not types <= _TYPES[kind]:
        foreign = sorted(_NAMES.get(t, t.__name__) for t in types - _TYPES[kind])
        expected = "string" if kind == "O" else tensor.dtype.name
        raise BadRequestError(
            f"A value of {name} is not of expected type: {expected}; received "
            f"{', '.join(foreign)}."
        )
    if kind == "O":
        array = np.empty(len(values), object)
        array[:] = [_bytes(name, entry) for entry in values]
        return array.reshape(shape)
    try:
        with np.errstate(over="ignore"):  # Overflow to infinity is reported below.
            array = np.array(values, tensor.dtype)
    except OverflowError as error:
        raise BadRequestError(f"A value of {name} is out of range: {error}") from None
    if not np.isfinite(array).all():
        raise BadRequestError(f"A value of {name} is out of the range of float32.")
    return array.reshape(shape)


def _bytes(name, value):
    if isinstance(value, str):
        return value.encode()
    if not _is_base64(value):
        raise BadRequestError(f'An object in {name} must be {{"b64": "..."}}.')
    try:
        # TF Serving ignores white space and missing padding too.
        text = "".join(value["b64"].split())
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise BadRequestError(f"Unable to base64 decode a value of {name}.") from None


def _shape_text(shape):
    if len(shape) > 10:
        return f"of {len(shape)} axes"
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"


def write_answer(outputs: Mapping[str, np.ndarray], by_rows: bool) -> bytes:
    """Return the JSON body of a response.

    A single output is written without its name, several outputs as objects with a key for
    each. Strings are decoded as UTF-8, or written as `{"b64": ...}` if the name of the
    output ends in `_bytes`.

    Args:
        outputs: dict of arrays, all with the same batch size.
        by_rows: bool, whether to write a list with one prediction per instance
            (`predictions`) instead of whole arrays (`outputs`).

    Returns:
        The JSON as bytes.
    """
    values: dict[str, Any] = {
        name: _strings(name, array) if array.dtype == object else array
        for name, array in outputs.items()
    }
    answer: Any
    if by_rows:
        rows = zip(*values.values(), strict=True)
        if len(values) == 1:
            answer = [row[0] for row in rows]
        else:
            answer = [dict(zip(values, row, strict=True)) for row in rows]
        answer = {"predictions": answer}
    else:
        (first, *others) = values.values()
        answer = {"outputs": values if others else first}
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _strings(name, array):
    if name.endswith("_bytes"):

        def convert(value):
            return {"b64": base64.b64encode(value).decode("ascii")}

    else:

        def convert(value):
            return value.decode("utf-8", errors="replace")

    return np.frompyfunc(convert, 1, 1)(array).tolist()
