"""Mixin of the optimizers: per-variable rates and decay, weight averages, updates."""

import contextlib
from collections.abc import Iterator

import keras
from keras import ops

from keras_vit.training.parameters import ParameterRow, ParameterTable
from keras_vit.training.schedules import is_number


class ByVariable(keras.optimizers.Optimizer):
    """Mixin that adds `parameters`, `ema_decay` and update counts to an optimizer."""

    _first_update = 0

    # Keras's gradient accumulation and its clipping of the accumulated gradient are used
    # unchanged. As of Keras 3.15 this class replaces the following: schedules receive the
    # number of batches instead of updates; the EMA is updated at every batch, `fit` ends
    # by overwriting the weights with it, and a second `fit` crashes under JAX; exclusions
    # from weight decay are missing from the config.
    def __init__(self, learning_rate, parameters, ema_decay, **kwargs):
        table = "parameters=parameter_table(model, {}=...)"
        for argument, remedy in {
            "weight_decay": table.format("weight_decay"),
            "adam_weight_decay": table.format("weight_decay"),
            "exclude_layers": table.format("matrices"),
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
        weight_decay = 0.0
        if self.parameters is not None:
            row = self.parameters[index]
            learning_rate = learning_rate * row.rate
            weight_decay = row.weight_decay
            if row.first_update:
                self._first_update = row.first_update
        self._update(gradient, variable, learning_rate, weight_decay)
        if self.ema_decay is not None:
            average = self._averages[index]
            # The first update sets the average, as weights may be loaded after `build`.
            share = ops.where(ops.equal(self.iterations, 0), 1.0, 1.0 - self.ema_decay)
            share = ops.cast(share, variable.dtype)
            self.assign_add(average, ops.subtract(variable, average) * share)
        if self._first_update:
            self._first_update = 0

    @property
    def iterations(self):
        # Within `update_step` this is the number of updates of the variable, from which
        # Keras's optimizers compute the bias correction of its moments.
        if not self._first_update:
            return super().iterations
        # Steps that float16's loss scaling skips are no updates: there may be fewer.
        return ops.maximum(super().iterations - self._first_update, 0)

    def start_averages(self) -> None:
        """Set the averages to the weights, as after the first update."""
        if self.ema_decay is None:
            return
        for variable, average in zip(
            self._trainable_variables, self._averages, strict=True
        ):
            if average is not None:
                average.assign(ops.copy(variable))

    def _update(self, gradient, variable, learning_rate, weight_decay):
        """Update a variable and its state, with decoupled weight decay."""
        if weight_decay:
            decay = learning_rate * weight_decay
            self.assign_sub(variable, ops.multiply(variable, decay))
        super().update_step(gradient, variable, learning_rate)

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
