"""What trains the models: data, augmentation, learning rates, optimizers."""

from keras_vit.training.optimizers import (
    SGD,
    AdamW,
    ParameterRow,
    ParameterTable,
    parameter_table,
)
from keras_vit.training.schedules import WarmupSchedule

__all__ = [
    "SGD",
    "AdamW",
    "ParameterRow",
    "ParameterTable",
    "WarmupSchedule",
    "parameter_table",
]
