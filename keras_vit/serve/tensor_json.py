"""The JSON of TF Serving's REST predict API, to arrays and back."""

import base64
import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

DEFAULT_SIGNATURE = "serving_default"

# What JSON has for each kind of dtype.
_TYPES: dict[str, set[type]] = {
    "f": {int, float},
    "i": {int},
    "u": {int},
    "b": {bool},
    "O": {str, dict},
}
_NAMES = {dict: "object", list: "list", type(None): "null"}


class BadRequestError(ValueError):
    """What the client sent cannot be answered; the message is for the client."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """What a signature says of an input.

    Args:
        shape: tuple of ints, None where any will do.
        dtype: NumPy's; `object` for strings.
    """

    shape: tuple[int | None, ...]
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Request:
    """What a body asks for.

    Args:
        signature: name of the signature.
        inputs: arrays by name, with a batch axis.
        by_rows: whether it came, and is answered, as a list of instances.
    """

    signature: str
    inputs: dict[str, np.ndarray]
    by_rows: bool

    @property
    def size(self) -> int:
        """Number of instances."""
        return len(next(iter(self.inputs.values())))


def read_request(
    body: bytes | bytearray,
    signatures: Mapping[str, Mapping[str, Tensor]],
    max_instances: int,
    max_values: int,
) -> Request:
    """Reads the body of a predict request.

    Args:
        body: JSON, an object with `instances` or `inputs` and maybe `signature_name`.
        signatures: for each name, its inputs by name.
        max_instances: int, the most instances of a request.
        max_values: int, the most values in the JSON, with its lists and objects.

    Raises:
        BadRequestError: it is no JSON, or not of this form, or not what the signature
            takes.

    Source: https://www.tensorflow.org/tfx/serving/api_rest. Deviations: numbers must be
    finite, and instances match the shape of the signature.
    """
    # A list takes 50 times the bytes of its text, so count before parsing.
    count = count_values(body)
    if count > max_values:
        raise BadRequestError(
            f"The JSON has {count} values, lists and objects; this server takes "
            f"{max_values} (--max-values). Send fewer images, or image files."
        )
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
            f'Serving signature name: "{name[:80]}" not found in signature def; there '
            f"are: {', '.join(sorted(signatures))}."
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
            f"A request has 1 to {max_instances} instances here; received {size}."
        )
    return Request(name, inputs, by_rows)


def count_values(body: bytes | bytearray) -> int:
    """Return the most values, lists and objects that unparsed JSON can have."""
    text = np.frombuffer(body, np.uint8)
    return sum(int(np.count_nonzero(text == ord(c))) for c in ",[{")


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
            "A plain list, but the signature has several inputs and needs objects with "
            f"the keys {', '.join(sorted(tensors))}."
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
    # By levels, and not with np.array(value): that makes numbers of booleans and
    # strings, and of a long string among numbers as many copies.
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
            f"{name} must have shape {_shape_text(wanted)}, with the batch; received "
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
        with np.errstate(over="ignore"):  # To infinity.
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
        # As TF Serving reads it: white space and padding are optional.
        text = "".join(value["b64"].split())
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise BadRequestError(f"Unable to base64 decode a value of {name}.") from None


def _shape_text(shape):
    if len(shape) > 10:
        return f"of {len(shape)} axes"
    return f"({', '.join('any' if size is None else str(size) for size in shape)})"


def write_answer(outputs: Mapping[str, np.ndarray], by_rows: bool) -> bytes:
    """The JSON body of an answer.

    One output is written as it is, several as objects by name. Strings are UTF-8, and
    `{"b64": ...}` where the name of the output ends with `_bytes`.

    Args:
        outputs: arrays by name, all with the same batch axis.
        by_rows: whether as a list of predictions, or whole outputs.

    Returns:
        bytes.
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
