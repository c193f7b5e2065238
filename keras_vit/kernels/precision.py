"""Precision of the computations that must not run in half precision."""

import keras
from keras import ops


def to_float32(x):
    """Return `x` in float32; float64 is kept.

    Sums of many terms, exponentials and cubes exceed the range or the precision of
    float16 and bfloat16.
    """
    return ops.cast(x, keras.backend.result_type(x.dtype, "float32"))


def is_half(dtype):
    """Return True if a dtype is float16 or bfloat16."""
    return keras.backend.standardize_dtype(dtype) in ("float16", "bfloat16")
