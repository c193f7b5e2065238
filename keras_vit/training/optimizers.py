"""AdamW, SGD, Lion and Lamb with per-variable rates, weight decay and averages."""

from collections.abc import Iterable

import keras
from keras import ops

from keras_vit.training.by_variable import ByVariable
from keras_vit.training.parameters import ParameterRow


@keras.saving.register_keras_serializable(package="keras_vit")
class AdamW(ByVariable, keras.optimizers.Adam):
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
class SGD(ByVariable, keras.optimizers.SGD):
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


@keras.saving.register_keras_serializable(package="keras_vit")
class Lion(ByVariable, keras.optimizers.Lion):
    """Keras's Lion with per-variable rates, decoupled weight decay and weight averages.

    Every entry of a variable moves by the learning rate, in the direction of the sign.
    The authors use a learning rate 3 to 10 times smaller than AdamW's and a weight decay
    that is larger by the same factor.

    Args:
        learning_rate: as for `AdamW`.
        parameters: as for `AdamW`.
        ema_decay: as for `AdamW`.
        beta_1: float, share of the momentum in the update; the gradient has the rest.
        beta_2: float, decay of the momentum.
        **kwargs: arguments of `keras.optimizers.Lion`, such as `global_clipnorm` and
            `gradient_accumulation_steps`, except `weight_decay` and `use_ema`.

    Raises:
        ValueError: as for `AdamW`, or `beta_1` is out of its range.

    Example:

    >>> from keras_vit.training import Lion, WarmupSchedule
    >>> optimizer = Lion(WarmupSchedule(1e-4, steps=10_000, warmup_steps=500))

    Reference: Symbolic Discovery of Optimization Algorithms (arXiv:2302.06675),
    algorithm 2.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-4,
        parameters: Iterable[ParameterRow] | None = None,
        ema_decay: float | None = None,
        beta_1: float = 0.9,
        beta_2: float = 0.99,
        **kwargs,
    ):
        betas = {"beta_1": beta_1, "beta_2": beta_2}
        super().__init__(learning_rate, parameters, ema_decay, **betas, **kwargs)


@keras.saving.register_keras_serializable(package="keras_vit")
class Lamb(ByVariable, keras.optimizers.Lamb):
    """LAMB with per-variable rates, weight decay and weight averages.

    The update of a variable `w` is `u = m / (sqrt(v) + epsilon) + weight_decay * w`, with
    the bias-corrected moments `m` and `v` of Adam, and `w` becomes
    `w - learning_rate * norm(w) / norm(u) * u`. As in the authors' code, NVIDIA's
    FusedLAMB and timm, only variables with weight decay have the factor
    `norm(w) / norm(u)`; all others are trained by Adam. If no variable has weight decay,
    all have the factor, and the optimizer equals `keras.optimizers.Lamb`.

    Keras's own weight decay would be decoupled, so that the factor does not scale it.
    With rates such as DeiT III's, 3e-3, that is a decay some 50 times stronger.

    Args:
        learning_rate: as for `AdamW`.
        parameters: as for `AdamW`.
        ema_decay: as for `AdamW`.
        epsilon: float, added to the root of the bias-corrected second moment.
        **kwargs: arguments of `keras.optimizers.Lamb`, such as `beta_1`, `beta_2`,
            `global_clipnorm` and `gradient_accumulation_steps`, except `weight_decay`
            and `use_ema`.

    Raises:
        ValueError: as for `AdamW`.

    Example:

    >>> import keras_vit
    >>> from keras_vit.training import Lamb, parameter_table
    >>> model = keras_vit.ViTTi16(input_shape=(32, 32, 3), classes=10, num_layers=2)
    >>> table = parameter_table(model, weight_decay=0.02)
    >>> optimizer = Lamb(3e-3, table, global_clipnorm=1.0)

    Reference: Large Batch Optimization for Deep Learning (arXiv:1904.00962), algorithm 2;
    DeiT III (arXiv:2204.07118).
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
        rows = self.parameters or ()
        self._adapts_all = not any(row.weight_decay for row in rows)

    def _update(self, gradient, variable, learning_rate, weight_decay):
        index = self._get_variable_index(variable)
        m, v = self._momentums[index], self._velocities[index]
        gradient = ops.cast(gradient, variable.dtype)
        step = ops.cast(self.iterations + 1, variable.dtype)
        self.assign_add(m, (gradient - m) * (1 - self.beta_1))
        self.assign_add(v, (ops.square(gradient) - v) * (1 - self.beta_2))
        m_hat = m / (1 - ops.power(self.beta_1, step))
        v_hat = v / (1 - ops.power(self.beta_2, step))
        update = m_hat / (ops.sqrt(v_hat) + self.epsilon)
        if weight_decay:
            update = update + weight_decay * variable
        if weight_decay or self._adapts_all:
            norms = [ops.sqrt(ops.sum(ops.square(x))) for x in (variable, update)]
            # A variable or an update of zeros has the factor 1.
            nonzero = ops.logical_and(norms[0] > 0, norms[1] > 0)
            ratio = norms[0] / ops.where(nonzero, norms[1], 1.0)
            learning_rate = learning_rate * ops.where(nonzero, ratio, 1.0)
        self.assign_sub(variable, learning_rate * update)
