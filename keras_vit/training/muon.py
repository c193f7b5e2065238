"""Muon: orthogonalized updates of hidden matrices."""

import math
from collections.abc import Iterable

import keras
from keras import ops

from keras_vit.training.by_variable import ByVariable
from keras_vit.training.parameters import ParameterRow


# Keras's Muon provides the state, the Newton-Schulz iteration and the AdamW step. As of
# Keras 3.15 this class replaces the following: every kernel of two axes is one matrix,
# also a fused QKV kernel and the head, unless its path is excluded; the factor of the
# update takes the first two axes of the kernel; exclusions do not know layers such as
# patch projections. It overrides the methods `_should_use_adamw` and `_muon_update_step`.
@keras.saving.register_keras_serializable(package="keras_vit")
class Muon(ByVariable, keras.optimizers.Muon):
    """Keras's Muon with a table of hidden matrices, weight decay and weight averages.

    The momentum of a hidden matrix is replaced by an approximation of the nearest
    orthogonal matrix before it is subtracted, so that all directions are learned at the
    same rate. The column `matrices` of the table decides: a fused QKV kernel is split
    into its three matrices, and everything that is not a hidden matrix is trained by
    AdamW, such as the patch projection, tokens, positions, norms, biases and the head.

    For a matrix `(n, m)` the orthogonal matrix is multiplied by
    `rms_rate * sqrt(max(n, m))`. Its entries then have the size `rms_rate` on average,
    about that of AdamW's updates, so that both parts have one learning rate.

    Args:
        learning_rate: as for `AdamW`, for both parts.
        parameters: a `ParameterTable` from `parameter_table`.
        ema_decay: as for `AdamW`.
        momentum: float, decay of the momentum of hidden matrices.
        epsilon: as for `AdamW`, for its part.
        **kwargs: arguments of `keras.optimizers.Muon`, such as `adam_beta_1`,
            `adam_beta_2`, `adam_lr_ratio`, `nesterov`, `ns_steps`, `rms_rate`,
            `global_clipnorm` and `gradient_accumulation_steps`, except `weight_decay`,
            `adam_weight_decay`, `exclude_layers`, `exclude_embeddings` and `use_ema`.

    Raises:
        ValueError: `parameters` is None, or as for `AdamW`.

    Example:

    >>> import keras_vit
    >>> from keras_vit.training import Muon, parameter_table
    >>> model = keras_vit.ViTTi16(input_shape=(32, 32, 3), classes=10, num_layers=2)
    >>> table = parameter_table(model, weight_decay=0.05)
    >>> optimizer = Muon(1e-3, table)
    >>> [row.path for row in table if row.matrices and row.group == "block_0"]
    ['block_0/attention/qkv/kernel', 'block_0/attention/projection/kernel',
    'block_0/mlp/expand/kernel', 'block_0/mlp/contract/kernel']

    Reference: Muon (https://kellerjordan.github.io/posts/muon); factor of the update:
    Muon is Scalable for LLM Training (arXiv:2502.16982) equation 4.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-3,
        parameters: Iterable[ParameterRow] | None = None,
        ema_decay: float | None = None,
        momentum: float = 0.95,
        epsilon: float = 1e-8,
        **kwargs,
    ):
        if parameters is None:
            raise ValueError(
                "Muon needs the table of hidden matrices; received parameters=None. Pass "
                "parameters=parameter_table(model, ...)."
            )
        # Keras's own defaults are not None.
        decays = {"weight_decay": None, "adam_weight_decay": None}
        kwargs = {**decays, "momentum": momentum, "epsilon": epsilon, **kwargs}
        super().__init__(learning_rate, parameters, ema_decay, **kwargs)

    def _should_use_adamw(self, variable):
        return not self.parameters[self._get_variable_index(variable)].matrices

    def _muon_update_step(self, gradient, variable, lr, m):
        gradient = ops.cast(gradient, variable.dtype)
        self.assign_add(m, gradient + m * (self.momentum - 1))
        direction = gradient + m * self.momentum if self.nesterov else m
        number = self.parameters[self._get_variable_index(variable)].matrices
        rows, columns = variable.shape[0], variable.shape[1] // number
        # (rows, number * columns) -> (number, rows, columns)
        stacked = ops.reshape(direction, (rows, number, columns))
        stacked = ops.transpose(stacked, (1, 0, 2))
        update = self.zeropower_via_newtonschulz5(stacked, self.ns_steps)
        update = ops.reshape(ops.transpose(update, (1, 0, 2)), variable.shape)
        if self.rms_rate is not None:
            lr = lr * (self.rms_rate * math.sqrt(max(rows, columns)))
        self.assign_sub(variable, lr * update)

    def get_config(self):
        config = super().get_config()
        for name in ("exclude_layers", "exclude_embeddings"):
            del config[name]
        return config
