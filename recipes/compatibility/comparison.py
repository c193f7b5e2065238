"""Comparison of a loaded checkpoint with the outputs of the network that wrote it."""

import os
import re
from typing import Any, NamedTuple

import keras
import numpy as np

import keras_vit

TOLERANCE = 1e-4


class Outcome(NamedTuple):
    """Result of loading one checkpoint.

    Attributes:
        verdict: `"exact"`, `"refused"` or `"wrong"`.
        arguments: arguments of `load_checkpoint`, which an error message asked for.
        difference: largest difference of the outputs, relative to their largest value,
            or None if the checkpoint was refused.
        reason: first sentence of the last error, or the output that differs.
    """

    verdict: str
    arguments: dict[str, Any]
    difference: float | None
    reason: str


def compare(
    path: os.PathLike,
    images: np.ndarray,
    expected: dict[str, np.ndarray],
    answers: dict[str, Any] | None = None,
) -> Outcome:
    """Load a checkpoint and compare its outputs with those of its own library.

    If an error asks for an argument, the checkpoint is loaded again with that argument,
    until the outputs can be compared or the error asks for nothing new.

    Args:
        path: path of the checkpoint.
        images: array `(b, h, w, c)`.
        expected: dict with some of the keys `"tokens"`, `"pooled"` and `"logits"`.
        answers: dict of the arguments that a user who knows the network can pass, or
            None if the checkpoint must load without arguments.
    """
    tried: list[dict[str, Any]] = []
    queue: list[dict[str, Any]] = [{}]
    reason = ""
    while queue and len(tried) < 12:
        arguments = queue.pop(0)
        if arguments in tried:
            continue
        tried.append(arguments)
        try:
            difference, part = _difference(path, images, expected, arguments)
        except ValueError as error:
            message = str(error)
            reason = _shorten(message, path)
            if answers is not None:
                queue += [
                    {**arguments, name: answer}
                    for name, answer in _asked(message, answers)
                ]
            continue
        if difference <= TOLERANCE:
            return Outcome("exact", arguments, difference, "")
        return Outcome("wrong", arguments, difference, f"{part} differ")
    return Outcome("refused", {}, None, reason)


def _difference(path, images, expected, arguments):
    """Return the largest relative difference, and the name of the output with it."""
    head: dict[str, Any] = {"classifier_activation": None}
    if "logits" not in expected:
        head = {"include_top": False}
    model = keras_vit.load_checkpoint(path, **head, **arguments)
    if model.input_shape[1:] != images.shape[1:]:
        raise ValueError(
            f"The model expects images of {model.input_shape[1:]}, and the network has "
            f"{images.shape[1:]}."
        )
    computed = _outputs(model, images)
    differences = {
        part: relative_difference(computed[part], array)
        for part, array in expected.items()
    }
    worst = max(differences, key=differences.__getitem__)
    return differences[worst], worst


def relative_difference(computed: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, relative to the largest expected value.

    It is infinite if the shapes differ, or if a value is not finite: `max` would ignore
    a NaN.
    """
    if computed.shape != expected.shape:
        return float("inf")
    difference = float(np.abs(computed - expected).max() / np.abs(expected).max())
    return difference if np.isfinite(difference) else float("inf")


def _outputs(model, images):
    """Return the tokens, pooled features and logits of a model."""
    layers = {layer.name: layer for layer in model.layers}
    named = {}
    if "pooling" in layers:
        named["tokens"] = layers["pooling"].input
    else:
        named["tokens"] = model.output
    if "classifier" in layers:
        named["pooled"] = layers["classifier"].input
        named["logits"] = model.output
    elif "pooling" in layers:
        named["pooled"] = model.output
    outputs = keras.Model(model.input, named)(images, training=False)
    return {part: keras.ops.convert_to_numpy(output) for part, output in outputs.items()}


def _asked(message, answers):
    """Yield the names and values of the arguments that an error message asks for."""
    for name, answer in answers.items():
        if re.search(rf"\b{name}=", message):
            yield name, answer
    # The suggested networks are tried in turn; the first one that loads is compared.
    for other in re.findall(r"architecture='(\w+)'", message):
        yield "architecture", other


def _shorten(message, path):
    """Return the first sentence of an error message without the path of the file."""
    path = os.fspath(path)
    first = message.split("\n")[0]
    for place in (f"{path}/model.safetensors", path, os.path.dirname(path)):
        first = first.replace(place, "the file")
    return re.split(r"(?<=[a-z)\]])\. |: |; ", first + " ")[0].strip()[:200]
