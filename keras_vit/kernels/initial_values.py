"""Initial values drawn by NumPy, or zero where a checkpoint follows.

Plain form: the initializers of Keras.
"""

import contextlib
import contextvars
import math
from typing import Any

import keras
import numpy as np

from keras_vit.kernels.switch import in_use

_checkpoint_follows = contextvars.ContextVar("checkpoint_follows", default=False)
_budget: contextvars.ContextVar[Any] = contextvars.ContextVar("budget", default=None)

# Standard deviation of a standard normal distribution truncated at -2 and 2.
_TRUNCATED_STDDEV = 0.87962566103423978


@contextlib.contextmanager
def checkpoint_follows(follows: bool = True, budget: Any = None):
    """Let the weights of `InitialValues` layers start at zero inside this context.

    Args:
        follows: bool, whether a checkpoint follows; False changes nothing.
        budget: None, or the `keras_vit.weights.keras_file.WeightBudget` of the
            checkpoint. A model that needs more raises an error before it allocates them.
    """
    token = _checkpoint_follows.set(follows or _checkpoint_follows.get())
    budget_token = _budget.set(budget or _budget.get())
    try:
        yield
    finally:
        _checkpoint_follows.reset(token)
        _budget.reset(budget_token)


@contextlib.contextmanager
def without_budget():
    """Suspend the budget of `checkpoint_follows` inside this context."""
    token = _budget.set(None)
    try:
        yield
    finally:
        _budget.reset(token)


class BudgetedLayer(keras.layers.Layer):
    """Layer whose weights count against the budget of `checkpoint_follows`."""

    def add_weight(self, shape=None, *args, **kwargs):
        budget = _budget.get()
        if budget is not None:
            budget.take(() if shape is None else tuple(shape))
        return super().add_weight(shape, *args, **kwargs)


class InitialValues(BudgetedLayer):
    """Layer whose weights are initialized by NumPy.

    Under JAX, Keras compiles its random initializers for each shape, which would take
    most of the time to build a model. NumPy draws from the same distributions with the
    same seeds. The values are the same under every backend, but differ from those that
    Keras draws. If a checkpoint follows, the weights start at zero.

    Layers of the head are not derived from this class, because they may keep their
    initial values when a checkpoint is loaded.
    """

    def add_weight(self, *args, initializer=None, **kwargs):
        initializer = keras.initializers.get(initializer)
        if _checkpoint_follows.get():
            initializer = "zeros"
        elif in_use() == "fast" and _can_draw(initializer):
            initializer = _DrawnByNumpy(initializer)
        return super().add_weight(*args, initializer=initializer, **kwargs)


def _can_draw(initializer):
    kinds = (
        keras.initializers.RandomNormal,
        keras.initializers.TruncatedNormal,
        keras.initializers.VarianceScaling,
    )
    # Subclasses may have other arguments, such as GlorotUniform, but no other `__call__`.
    known = type(initializer).__call__ in [kind.__call__ for kind in kinds]
    # A seed may also be a generator with a state.
    return known and isinstance(initializer.seed, int)


class _DrawnByNumpy:
    # A class, not a function: to shard a weight, Keras lets JAX compile `__call__`.
    def __init__(self, initializer):
        self.initializer = initializer

    def __call__(self, shape, dtype=None):
        generator = np.random.default_rng(self.initializer.seed)
        distribution, mean, scale = _distribution(self.initializer, shape)
        if distribution == "uniform":
            values = generator.random(shape, "float32")
            values -= 0.5
        else:
            values = generator.standard_normal(shape, "float32")
        if distribution == "truncated_normal":
            while (outside := np.abs(values) > 2).any():
                count = np.count_nonzero(outside)
                values[outside] = generator.standard_normal(count, "float32")
        values *= scale
        values += mean
        return keras.ops.convert_to_tensor(values, dtype)


def _distribution(initializer, shape):
    """Return the kind, the mean, and the width or deviation before truncation."""
    if isinstance(initializer, keras.initializers.TruncatedNormal):
        return "truncated_normal", initializer.mean, initializer.stddev
    if isinstance(initializer, keras.initializers.RandomNormal):
        return "untruncated_normal", initializer.mean, initializer.stddev
    inputs, outputs = (2 * shape)[-2:]  # For a vector, both are its length.
    size = math.prod(shape[:-2])
    fan = {
        "fan_in": size * inputs,
        "fan_out": size * outputs,
        "fan_avg": size * (inputs + outputs) / 2,
    }
    variance = initializer.scale / max(1.0, fan[initializer.mode])
    if initializer.distribution == "uniform":
        return "uniform", 0.0, math.sqrt(12 * variance)
    stddev = math.sqrt(variance)
    if initializer.distribution == "truncated_normal":
        stddev /= _TRUNCATED_STDDEV
    return initializer.distribution, 0.0, stddev
