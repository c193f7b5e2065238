"""Storage dtypes of SavedModel weights, for both the export and its check."""

import functools
import operator

import ml_dtypes
import numpy as np


def stored(weight, dtype):
    """Return a list of arrays whose product is the weight, up to rounding.

    Vectors are not rounded. bfloat16 rounds to nearest, ties to even. int8 stores
    integer multiples of a step. Each index of the last axis, the output axis of every
    kernel, has its own step: 1/127 of its largest absolute value.

    Args:
        weight: float32 array.
        dtype: str, one of `keras_vit.choices.WEIGHTS_DTYPES`.

    Returns:
        `[weight]`, rounded to `dtype`; or for int8 `[multiples, step]`, an int8 array of
        the weight's shape and a float32 array of the length of its last axis.
    """
    if dtype == "float32" or weight.ndim < 2:
        return [weight]
    if dtype == "bfloat16":
        return [weight.astype(ml_dtypes.bfloat16)]
    largest = np.max(np.abs(weight), axis=tuple(range(weight.ndim - 1)))
    step = np.where(largest > 0, largest, 1).astype("float32") / np.float32(127)
    return [np.rint(weight / step).astype("int8"), step]


def restored(parts):
    """Return the weight that `stored` split into parts, which must be cast to float32."""
    return functools.reduce(operator.mul, parts)
