"""Training: schedules, optimizers, losses and self-supervision."""

from keras_vit.training.losses import SigmoidLoss
from keras_vit.training.masked_autoencoder import MaskedAutoencoder
from keras_vit.training.masked_patch_prediction import MaskedPatchPrediction
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
    "MaskedAutoencoder",
    "MaskedPatchPrediction",
    "ParameterRow",
    "ParameterTable",
    "SigmoidLoss",
    "WarmupSchedule",
    "parameter_table",
]
