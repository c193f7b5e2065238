"""Initial values, drawn by NumPy, or left at zero where a checkpoint follows."""

import contextlib
import contextvars
import dataclasses
import math

import keras
import numpy as np

_checkpoint_follows = contextvars.ContextVar("checkpoint_follows", default=False)


@dataclasses.dataclass
class WeightBudget:
    """The weights that a saved file has, and that the model built from it may have.

    Attributes:
        variables: their number.
        elements: the number of their elements.
    """

    variables: int
    elements: int

    def take(self, shape: tuple[int, ...]) -> None:
        """Subtract a weight that is about to be made.

        Raises:
            ValueError: the model would have more weights than the file.
        """
        self.variables -= 1
        self.elements -= math.prod(shape)
        if self.variables < 0 or self.elements < 0:
            raise ValueError(
                "The config in the file describes a larger model than the file has "
                "weights for: it is damaged. Save the model again."
            )


_budget: contextvars.ContextVar[WeightBudget | None] = contextvars.ContextVar(
    "budget", default=None
)

# Of a standard normal distribution that is cut off at -2 and 2.
_TRUNCATED_STDDEV = 0.87962566103423978


@contextlib.contextmanager
def checkpoint_follows(follows: bool = True, budget: WeightBudget | None = None):
    """While it lasts, the weights of an `InitialValues` layer start at zero.

    Args:
        follows: bool; False changes nothing.
        budget: None, or the weights that the checkpoint has: a model that needs more
            raises an error before it allocates them.
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
    """While it lasts, weights do not count against the budget of `checkpoint_follows`."""
    token = _budget.set(None)
    try:
        yield
    finally:
        _budget.reset(token)


class BudgetedLayer(keras.layers.Layer):
    """A layer whose weights count against the budget of `checkpoint_follows`."""

    def add_weight(self, shape=None, *args, **kwargs):
        budget = _budget.get()
        if budget is not None:
            budget.take(() if shape is None else tuple(shape))
        return super().add_weight(shape, *args, **kwargs)


class InitialValues(BudgetedLayer):
    """A layer whose large weights start fast.

    Under JAX, Keras's random initializers are compiled anew for each shape: most of the
    time that making a model took. NumPy draws the same distributions from the same
    seeds: so the initial values are the same under every backend, though not those that
    Keras would draw. Where a checkpoint follows, nothing is drawn.

    The layers of the head are none: they may stay new beside a checkpoint.
    """

    def add_weight(self, *args, initializer=None, **kwargs):
        initializer = keras.initializers.get(initializer)
        if _checkpoint_follows.get():
            initializer = "zeros"
        elif _can_draw(initializer):
            initializer = _DrawnByNumpy(initializer)
        return super().add_weight(*args, initializer=initializer, **kwargs)


def _can_draw(initializer):
    kinds = (
        keras.initializers.RandomNormal,
        keras.initializers.TruncatedNormal,
        keras.initializers.VarianceScaling,
    )
    # Subclasses with other arguments, such as GlorotUniform, but no other computation.
    known = type(initializer).__call__ in [kind.__call__ for kind in kinds]
    return known and isinstance(initializer.seed, int)  # Or a generator with a state.


class _DrawnByNumpy:  # A class: Keras has JAX compile its `__call__` to shard it.
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
    """Kind, mean, and width (uniform) or standard deviation before it is cut off."""
    if isinstance(initializer, keras.initializers.TruncatedNormal):
        return "truncated_normal", initializer.mean, initializer.stddev
    if isinstance(initializer, keras.initializers.RandomNormal):
        return "untruncated_normal", initializer.mean, initializer.stddev
    inputs, outputs = (2 * shape)[-2:]  # A vector's length is both.
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
