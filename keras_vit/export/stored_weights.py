"""Weights as a SavedModel stores them, by one rule for the export and for its check."""

import functools
import operator

import ml_dtypes
import numpy as np

WEIGHTS_DTYPES = ("float32", "bfloat16", "int8")


def stored(weight, dtype):
    """A list of arrays whose product is the weight, but for rounding.

    Vectors stay as they are. bfloat16 rounds to the nearest, halves to even. int8 is
    whole numbers of steps; a step for each entry of the last axis, which is the output
    of every kernel: a 127th of the largest absolute value there.

    Args:
        weight: float32 array.
        dtype: str, of `WEIGHTS_DTYPES`.

    Returns:
        `[weight]`, rounded; or `[steps, step]`, int8 of the weight's shape and float32
        of its last axis.
    """
    if dtype == "float32" or weight.ndim < 2:
        return [weight]
    if dtype == "bfloat16":
        return [weight.astype(ml_dtypes.bfloat16)]
    largest = np.max(np.abs(weight), axis=tuple(range(weight.ndim - 1)))
    step = np.where(largest > 0, largest, 1).astype("float32") / np.float32(127)
    return [np.rint(weight / step).astype("int8"), step]


def restored(parts):
    """The weight, of what `stored` gives: arrays or tensors, cast to float32."""
    return functools.reduce(operator.mul, parts)
