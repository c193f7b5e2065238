"""AdamW and SGD with per-variable learning rates, weight decay and weight averages."""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_vit.training.schedules import is_number

_BLOCK = re.compile(r"(?:^|/)block_(\d+)/")


class ParameterRow(NamedTuple):
    """Training settings of one variable, a row of a `ParameterTable`.

    Attributes:
        path: path of the variable within the model.
        shape: shape of the variable.
        group: part of the model that holds the variable, the first name of its path.
        rate: factor of the learning rate.
        weight_decay: decoupled weight decay; each update first multiplies the variable by
            `1 - learning rate * rate * weight_decay`.

    Example:

    >>> from keras_vit.training import ParameterRow
    >>> ParameterRow("norm/gamma", (16,), "norm", rate=1.0, weight_decay=0.0).group
    'norm'
    """

    path: str
    shape: tuple[int, ...]
    group: str
    rate: float
    weight_decay: float


class ParameterTable(tuple[ParameterRow, ...]):
    """Table with a `ParameterRow` per trainable variable, in the model's order.

    `parameter_table` builds a table from rules. `print` shows it in aligned columns.

    Example:

    >>> from keras_vit.training import ParameterRow, ParameterTable
    >>> print(ParameterTable([ParameterRow("norm/gamma", (16,), "norm", 1.0, 0.0)]))
    variable    shape  group  rate  weight decay
    norm/gamma  16     norm   1     0
    """

    def __str__(self):
        cells = [("variable", "shape", "group", "rate", "weight decay")]
        for path, shape, group, rate, decay in self:
            sides = "x".join(map(str, shape))
            cells.append((path, sides, group, f"{rate:.6g}", f"{decay:.6g}"))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join(map(str.ljust, line, widths)).rstrip() for line in cells
        )


def parameter_table(
    model: keras.Model,
    weight_decay: float = 0.0,
    decayed: str | Iterable[str] = "kernel$",
    layer_decay: float | None = None,
    rates: Mapping[str, float] | None = None,
    peak_learning_rate: float | None = None,
) -> ParameterTable:
    """Build the table of learning rates and weight decays, one row per variable.

    Rules are regular expressions, searched for in the variable's path within the model
    (`model.weights_by_path()`). Frozen variables have no row. To freeze variables, set
    `trainable = False` before building the table, which also saves their gradients and
    optimizer state; a rate of 0 is not allowed.

    Args:
        model: a built model.
        weight_decay: weight decay of the variables that match `decayed`. It is AdamW's
            decoupled decay, scaled by the learning rate and the variable's own rate.
        decayed: rule or rules for the variables that decay. By default only kernels
            decay, not biases, norms, tokens, positions or LayerScale.
        layer_decay: None, or the factor between the rate of a layer and that of the layer
            above. With `n` blocks, `block_i` has the rate `layer_decay ** (n - i)`;
            everything before the blocks (stem, patches, tokens, positions) has
            `layer_decay ** (n + 1)`; everything after them (norm, pooling, head) has 1.
        rates: None, or a dict from rule to factor of the learning rate, such as
            `{"^classifier/": 10.0}` for a faster head. The first rule that matches a
            variable applies, multiplied by the rate that results from `layer_decay`.
        peak_learning_rate: None, or the peak of the schedule, to use big_vision's weight
            decay, which is scaled only by the shape of the schedule: at the peak, an
            update multiplies by `1 - weight_decay`, whatever the learning rate and the
            variable's rate are. The table holds the equivalent AdamW decay.

    Returns:
        A `ParameterTable` for the argument `parameters` of `AdamW` and `SGD`.

    Raises:
        ValueError: a rule matches no variable that an earlier rule has not matched; a
            number is out of its range; `layer_decay` is set for a model without blocks;
            the model is not built or entirely frozen.

    Example:

    >>> import keras_vit
    >>> from keras_vit.training import parameter_table
    >>> model = keras_vit.ViTTi16(input_shape=(32, 32, 3), classes=10)
    >>> table = parameter_table(model, weight_decay=0.05, layer_decay=0.75)
    >>> table[-3:]
    (ParameterRow(path='norm/beta', shape=(192,), group='norm', rate=1.0,
    weight_decay=0.0), ParameterRow(path='classifier/kernel', shape=(192, 10),
    group='classifier', rate=1.0, weight_decay=0.05),
    ParameterRow(path='classifier/bias', shape=(10,), group='classifier', rate=1.0,
    weight_decay=0.0))

    Reference: layer-wise rates: BEiT (arXiv:2106.08254), MAE (arXiv:2111.06377) appendix
    A; weight decay: arXiv:1711.05101 and big_vision's `optim.py`.
    """
    rates = {} if rates is None else rates
    _check_numbers(weight_decay, layer_decay, rates, peak_learning_rate)
    paths, variables = _trainable(model)
    decayed = [decayed] if isinstance(decayed, str) else decayed
    # Without decay, the rules need not match: perhaps only the norms are trainable.
    decay_rules = _first_rules(decayed, variables, "decayed") if weight_decay else {}
    rate_rules = _first_rules(rates, variables, "rates")
    layer_rates = _layer_rates(paths, layer_decay)
    rows = []
    for path, variable in variables.items():
        rate = float(layer_rates[path] * rates.get(rate_rules.get(path), 1.0))
        decay = float(weight_decay if path in decay_rules else 0.0)
        if peak_learning_rate is not None:
            decay /= peak_learning_rate * rate
        group = path.split("/", 1)[0]
        rows.append(ParameterRow(path, tuple(variable.shape), group, rate, decay))
    return ParameterTable(rows)


def _trainable(model):
    """Return the paths of all weights, and a dict from path to trainable variable."""
    by_path = getattr(
        model, "weights_by_path", lambda: {w.path: w for w in model.weights}
    )
    paths = {id(weight): path for path, weight in by_path().items()}
    variables = {paths[id(v)]: v for v in model.trainable_variables}
    if not variables:
        raise ValueError(
            f"The model {model.name!r} has no trainable variables: it is not built, or "
            "frozen (trainable = False)."
        )
    return list(paths.values()), variables


def _check_numbers(weight_decay, layer_decay, rates, peak_learning_rate):
    """Raise a `ValueError` if an argument of `parameter_table` is out of its range."""
    if not is_number(weight_decay) or weight_decay < 0:
        raise ValueError(
            f"weight_decay must be a number, 0 or more; received {weight_decay!r}."
        )
    if layer_decay is not None and not (is_number(layer_decay) and 0 < layer_decay <= 1):
        raise ValueError(
            "layer_decay must be None or a number above 0 and at most 1; received "
            f"{layer_decay!r}."
        )
    factors: dict[str, Any] = {f"rates[{rule!r}]": rate for rule, rate in rates.items()}
    if peak_learning_rate is not None:
        factors["peak_learning_rate"] = peak_learning_rate
    for name, factor in factors.items():
        if not is_number(factor) or factor <= 0:
            raise ValueError(
                f"{name} must be a number above 0; received {factor!r}. To freeze "
                "variables, set trainable = False on their layers."
            )


def _first_rules(rules, paths, argument):
    """Return a dict from path to the first rule that matches it."""
    found = {}
    for rule in rules:
        new = [path for path in paths if path not in found and re.search(rule, path)]
        if not new:
            raise ValueError(
                f"The rule {rule!r} of {argument} finds no trainable variable that no "
                f"rule before it found. There are {len(paths)}: {', '.join(paths)}."
            )
        found.update(dict.fromkeys(new, rule))
    return found


def _layer_rates(paths, layer_decay):
    """Return a dict from path to factor; `paths` must be in the order of data flow."""
    if layer_decay is None:
        return dict.fromkeys(paths, 1.0)
    blocks = [_BLOCK.search(path) for path in paths]
    numbers = [int(block[1]) for block in blocks if block]
    if not numbers:
        raise ValueError(
            "layer_decay needs a model of blocks, with weights whose paths begin with "
            f"block_0, block_1 and so on; received one of {', '.join(paths)}."
        )
    top = max(numbers) + 2
    depths, below = {}, 0
    for path, block in zip(paths, blocks, strict=True):
        # After the first block, weights outside the blocks belong above all blocks.
        depth = int(block[1]) + 1 if block else below
        below = top if block else below
        depths[path] = depth
    return {path: layer_decay ** (top - depth) for path, depth in depths.items()}


class _ByVariable(keras.optimizers.Optimizer):
    """Mixin that adds `parameters`, `ema_decay` and update counts to an optimizer."""

    # Keras's gradient accumulation and its clipping of the accumulated gradient are used
    # unchanged. As of Keras 3.15 this class replaces the following: schedules receive the
    # number of batches instead of updates; the EMA is updated at every batch, `fit` ends
    # by overwriting the weights with it, and a second `fit` crashes under JAX; exclusions
    # from weight decay are missing from the config.
    def __init__(self, learning_rate, parameters, ema_decay, **kwargs):
        for argument, remedy in {
            "weight_decay": "parameters=parameter_table(model, weight_decay=...)",
            "use_ema": "ema_decay",
        }.items():
            if kwargs.get(argument):
                raise ValueError(
                    f"Use {remedy} instead of {argument}; received "
                    f"{argument}={kwargs[argument]!r}."
                )
        if ema_decay is not None and not (is_number(ema_decay) and 0 <= ema_decay < 1):
            raise ValueError(
                "ema_decay must be None or a number, at least 0 and below 1; received "
                f"{ema_decay!r}."
            )
        super().__init__(learning_rate, **kwargs)
        if parameters is not None:
            parameters = ParameterTable(map(_row, parameters))
        self.parameters = parameters
        self.ema_decay = ema_decay

    def build(self, variables):
        if self.built:
            return
        if self.parameters is not None:
            _check_fits(self.parameters, variables)
        if self.ema_decay is not None:
            _check_precision(variables)
        super().build(variables)
        if self.ema_decay is not None:
            self._averages = self.add_optimizer_variables(variables, "average")

    def update_step(self, gradient, variable, learning_rate):
        # Under TensorFlow `variable` is a tf.Variable, which has no Keras path.
        index = self._get_variable_index(variable)
        learning_rate = ops.cast(learning_rate, variable.dtype)
        if self.parameters is not None:
            row = self.parameters[index]
            learning_rate = learning_rate * row.rate
            if row.weight_decay:
                decay = learning_rate * row.weight_decay
                self.assign_sub(variable, ops.multiply(variable, decay))
        super().update_step(gradient, variable, learning_rate)
        if self.ema_decay is not None:
            average = self._averages[index]
            # The first update sets the average, as weights may be loaded after `build`.
            share = ops.where(ops.equal(self.iterations, 0), 1.0, 1.0 - self.ema_decay)
            share = ops.cast(share, variable.dtype)
            self.assign_add(average, ops.subtract(variable, average) * share)

    def _get_current_learning_rate(self):
        schedule = self._learning_rate
        if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
            return schedule(self.iterations)
        return super()._get_current_learning_rate()

    @contextlib.contextmanager
    def averaged_weights(self, model: keras.Model) -> Iterator[keras.Model]:
        """Replace a model's weights by their average in a `with` block.

        Use it to evaluate or save the averaged model, after `fit` or in a callback, under
        every backend. Afterwards, even after an error, the model has exactly its own
        weights again. Weights that are not trained are not replaced. Before the first
        update the average equals the weights. The block needs memory for one more copy
        of the trained weights.

        Args:
            model: the model that this optimizer trains.

        Yields:
            The same model.

        Raises:
            ValueError: `ema_decay` is None, or the optimizer trains another model.
        """
        if self.ema_decay is None:
            raise ValueError("There are no averaged weights: ema_decay is None.")
        known = {id(weight) for weight in model.weights}
        foreign = [v.path for v in self._trainable_variables if id(v) not in known]
        if foreign:
            raise ValueError(
                f"The model {model.name!r} is not the one that this optimizer trains: "
                f"it has no variable of the optimizer's {foreign[0]!r}. Pass the model "
                "that was compiled with it."
            )
        # During `fit`, Keras's JAX trainer keeps the current values outside the model.
        getattr(model, "jax_state_sync", lambda: None)()
        # Convert with NumPy, as under tf.distribute the counter has a value per replica.
        if not self.built or not int(ops.convert_to_numpy(self.iterations)):
            yield model
            return
        both = zip(self._trainable_variables, self._averages, strict=True)
        # Float8 scales are overwritten instead of trained, so they have no average.
        pairs = [(variable, average) for variable, average in both if average is not None]
        # Copy the values, because JAX cannot donate a buffer that two variables share,
        # and torch assigns in place.
        own = [ops.copy(variable) for variable, _ in pairs]
        try:
            for variable, average in pairs:
                variable.assign(ops.copy(average))
            yield model
        finally:
            for (variable, _), value in zip(pairs, own, strict=True):
                variable.assign(value)

    def get_config(self):
        rows = self.parameters
        return {
            **super().get_config(),
            "parameters": None if rows is None else [row._asdict() for row in rows],
            "ema_decay": self.ema_decay,
        }


@keras.saving.register_keras_serializable(package="keras_vit")
class AdamW(_ByVariable, keras.optimizers.Adam):
    """Keras's Adam with per-variable rates, decoupled weight decay and weight averages.

    With a table without weight decay it is Adam. With weight decay it is also the ViT
    paper's Adam, because Google's code decouples the decay. Steps are updates: with
    `gradient_accumulation_steps` the schedule, weight decay, clipping and averages treat
    that many batches as one.

    Args:
        learning_rate: float or schedule, such as `WarmupSchedule`.
        parameters: a `ParameterTable` from `parameter_table`; None for rate 1 and no
            weight decay everywhere.
        ema_decay: None, or the decay of the exponential moving average (EMA) of the
            weights, such as 0.9999; `averaged_weights` applies it to the model. The
            average starts with the weights after the first update.
        epsilon: float, added to the root of the second moment before its bias correction.
            PyTorch and Optax add it after the correction: at step `t` their `epsilon`
            corresponds to `epsilon * sqrt(1 - beta_2 ** t)` here.
        **kwargs: arguments of `keras.optimizers.Adam`, such as `beta_1`, `beta_2`,
            `global_clipnorm` and `gradient_accumulation_steps`, except `weight_decay`
            and `use_ema`.

    Raises:
        ValueError: an argument is out of its range; or, when built, the table belongs to
            other variables, or `ema_decay` is set for variables below float32.

    Example:

    >>> import keras
    >>> from keras_vit.training import AdamW, parameter_table
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> optimizer = AdamW(
    ...     1e-3,
    ...     parameters=parameter_table(model, weight_decay=0.05),
    ...     ema_decay=0.999,
    ...     global_clipnorm=1.0,
    ...     gradient_accumulation_steps=2,
    ... )
    >>> model.compile(optimizer, "mse")
    >>> x, y = keras.ops.ones((8, 4)), keras.ops.ones((8, 2))
    >>> history = model.fit(x, y, batch_size=2, verbose=0)
    >>> with optimizer.averaged_weights(model):
    ...     loss = model.evaluate(x, y, verbose=0)

    Reference: Adam (arXiv:1412.6980), AdamW (arXiv:1711.05101).
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-3,
        parameters: Iterable[ParameterRow] | None = None,
        ema_decay: float | None = None,
        epsilon: float = 1e-8,
        **kwargs,
    ):
        super().__init__(learning_rate, parameters, ema_decay, epsilon=epsilon, **kwargs)


@keras.saving.register_keras_serializable(package="keras_vit")
class SGD(_ByVariable, keras.optimizers.SGD):
    """Keras's SGD with per-variable rates, decoupled weight decay and weight averages.

    The weight decay does not enter the momentum. Keras accumulates
    `learning rate * gradient` in the momentum, while Optax and PyTorch accumulate the
    gradient: results differ if the learning rate changes.

    Args:
        learning_rate: as for `AdamW`.
        parameters: as for `AdamW`.
        ema_decay: as for `AdamW`.
        momentum: float, decay of the momentum.
        **kwargs: arguments of `keras.optimizers.SGD`, such as `nesterov`,
            `global_clipnorm` and `gradient_accumulation_steps`, except `weight_decay`
            and `use_ema`.

    Raises:
        ValueError: as for `AdamW`.

    Example:

    >>> from keras_vit.training import SGD, WarmupSchedule
    >>> schedule = WarmupSchedule(0.03, steps=10_000, warmup_steps=500)
    >>> optimizer = SGD(schedule, global_clipnorm=1.0)

    Reference: the paper's fine-tuning, ViT (arXiv:2010.11929) appendix B.1.1.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.01,
        parameters: Iterable[ParameterRow] | None = None,
        ema_decay: float | None = None,
        momentum: float = 0.9,
        **kwargs,
    ):
        super().__init__(
            learning_rate, parameters, ema_decay, momentum=momentum, **kwargs
        )


def _row(row):
    """Return a `ParameterRow`, converted from a saved config's dict if necessary."""
    if isinstance(row, ParameterRow):
        return row
    return ParameterRow(**{**row, "shape": tuple(row["shape"])})


def _check_fits(parameters, variables):
    own = [(row.path, row.shape) for row in parameters]
    others = [(getattr(v, "path", None), tuple(v.shape)) for v in variables]
    if len(own) != len(others):
        raise ValueError(
            f"The table of parameters has {len(own)} rows, the model {len(others)} "
            "trainable variables. Make the table after freezing, by "
            "parameter_table(model, ...)."
        )
    for (path, shape), (other, other_shape) in zip(own, others, strict=True):
        # Name scopes lengthen a model's paths, and loading a Sequential shortens them.
        same = other is None or other.endswith(path) or path.endswith(other)
        if shape != other_shape or not same:
            raise ValueError(
                f"The table of parameters has {path!r} {shape} where the model has "
                f"{other!r} {other_shape}. Make the table for this model, by "
                "parameter_table(model, ...)."
            )


def _check_precision(variables):
    for variable in variables:
        dtype = keras.backend.standardize_dtype(variable.dtype)
        if dtype in ("float16", "bfloat16"):
            raise ValueError(
                f"An average of {dtype} variables would hardly move; ema_decay needs "
                "float32 ones. Use the dtype policy 'mixed_bfloat16'."
            )
