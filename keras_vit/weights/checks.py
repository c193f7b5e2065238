"""Strict loading: every tensor of the file is used, and every weight is set."""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_vit import processes
from keras_vit.layers.base import description, in_words

_DEFECT = (
    "This is a defect of the converter: please report it with the checkpoint's name."
)


def _listing(title, lines):
    lines = [f"    {line}" for line in lines]
    return "\n".join([f"  {title} ({len(lines)}):", *(lines or ["    none"])])


def check_tensors(
    path: str, expected: dict[str, Any], found: dict[str, Any], remedy: str
) -> None:
    """Check that a file has exactly the tensors that a model needs.

    Args:
        path: path of the file, for the message.
        expected: dict from name to shape of the tensors that the model needs.
        found: dict from name to shape of the tensors in the file.
        remedy: str, advice that is appended to the message.

    Raises:
        ValueError: if a tensor is missing, unexpected, or has another shape. The message
            lists every such tensor.
    """
    # Lists instead of sets keep the order of the data flow.
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    reshaped = [
        name
        for name in expected
        if name in found and tuple(expected[name]) != tuple(found[name])
    ]
    if not (missing or unexpected or reshaped):
        return
    lists = [
        _listing(
            "needed by the model, not in the file",
            [f"{name} {tuple(expected[name])}" for name in missing],
        ),
        _listing(
            "in the file, not used by the model",
            [f"{name} {tuple(found[name])}" for name in unexpected],
        ),
        _listing(
            "of another shape",
            [
                f"{name}: the model needs {tuple(expected[name])}, "
                f"the file has {tuple(found[name])}"
                for name in reshaped
            ],
        ),
    ]
    raise ValueError(
        "\n".join([f"{path} does not fit this model.", *lists, f"  {remedy}"])
    )


def check_values(path: str, name: str, array: np.ndarray) -> None:
    """Raise a `ValueError` if an array has NaN or infinite entries.

    Args:
        path: path of the file, for the message.
        name: name of the tensor, for the message.
        array: the tensor.
    """
    wrong = np.count_nonzero(~np.isfinite(array))
    if wrong:
        raise ValueError(
            f"{name} in {path}: {wrong} of {array.size} entries are NaN or infinite. "
            "check_finite=False loads them."
        )


def check_weights(path: str, weights: dict[str, keras.Variable]) -> None:
    """Raise a `ValueError` if a loaded weight has NaN or infinite entries.

    Args:
        path: path of the file, for the message.
        weights: dict from path to weight.
    """
    for name, weight in weights.items():
        check_values(path, name, processes.whole(weight))


def announce_zeros(path: str, array: np.ndarray) -> None:
    """Warn if the classifier gives every class the same score.

    Args:
        path: path of the file, for the message.
        array: kernel of the classifier.
    """
    if not array.any():
        warnings.warn(
            f"The classifier in {path} is all zeros: it gives every class the same "
            "score. Use include_top=False for features, or head='new' to train one.",
            stacklevel=2,
        )


def assign(
    weights: dict[str, keras.Variable], values: Iterable[tuple[str, np.ndarray]]
) -> None:
    """Assign a value to every weight of a model.

    Args:
        weights: dict from path to weight.
        values: iterable of pairs of path and array. It is consumed lazily, so that only
            one array at a time is in memory.

    Raises:
        ValueError: if a weight gets no value or a value of another shape, or if a value
            belongs to no weight.
    """
    remaining = dict(weights)
    for path, value in values:
        weight = remaining.pop(path, None)
        if weight is None or tuple(weight.shape) != value.shape:
            raise ValueError(
                f"Received a value of shape {value.shape} for {path}, which "
                f"{'is not a weight' if weight is None else f'has {weight.shape}'}. "
                f"{_DEFECT}"
            )
        weight.assign(value)
    if remaining:
        raise ValueError(f"Received no value for {', '.join(remaining)}. {_DEFECT}")


def impossible(
    config: dict[str, Any], possible: Mapping[str, Sequence[Any]]
) -> Iterator[tuple[str, str, str]]:
    """Find the arguments of a model that have another value than possible ones.

    Args:
        config: dict, the arguments of the model.
        possible: dict from an argument to its possible values.

    Yields:
        The argument, its possible values and its value in words.
    """
    for argument, values in possible.items():
        if description(config[argument]) not in map(description, values):
            required = " or ".join(map(in_words, values))
            yield argument, required, in_words(config[argument])


def check_config(
    what: str,
    config: dict[str, Any],
    possible: Mapping[str, Sequence[Any]],
    trained: dict[str, Any],
) -> None:
    """Check that a model is one that a checkpoint can have the weights of.

    Args:
        what: str, the checkpoint and its kind, for messages.
        config: dict, the arguments of the model.
        possible: dict from an argument to its possible values.
        trained: dict from an argument that no tensor depends on to its value in
            training, or None if it is unknown. A model with another value is warned of.

    Raises:
        ValueError: an argument has another value.
    """
    for argument, required, received in impossible(config, possible):
        raise ValueError(
            f"{what}, which requires {argument}={required}; received {received}."
        )
    for argument, value in trained.items():
        if value not in (None, config[argument]):
            warnings.warn(
                f"{what}, which was trained with {argument}={value!r}; the model has "
                f"{config[argument]!r} and will give other outputs.",
                stacklevel=8,
            )


def check_positions(
    path: str,
    config: dict[str, Any],
    rows: int,
    prefix: int,
    grid: tuple[int, int] | None,
) -> None:
    """Check that the learned position embeddings of a file fit a model.

    Args:
        path: path of the file, for the message.
        config: dict, the arguments of the model.
        rows: int, number of rows in the file.
        prefix: int, number of rows for prefix tokens in the file.
        grid: grid shape of the file, or None if it is unknown.

    Raises:
        ValueError: the grid of the file is unknown, or only one of the file and the model
            has a row for the class token.
    """
    if grid is None:
        raise ValueError(
            f"The {rows - prefix} positions of {path} do not form a square grid, and the "
            f"model's grid is {config['grid_shape']}. Pass the grid of the file as "
            "source_grid_shape=(rows, columns)."
        )
    has_rows = prefix > 0
    if config["class_token"] and has_rows != config["class_token_position"]:
        raise ValueError(
            f"The positions in {path} have {'a row' if has_rows else 'no row'} for the "
            f"class token: use class_token_position={has_rows}."
        )
