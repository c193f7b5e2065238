"""Training: schedules, optimizers, losses and self-supervision."""

import importlib
import sys

from keras_vit.training.adaptive_tokens import AdaptiveTokens
from keras_vit.training.devices import distributed
from keras_vit.training.distillation import Distillation
from keras_vit.training.distillation_token import with_distillation_token
from keras_vit.training.fine_tune import finetune
from keras_vit.training.flexible_patches import FlexiblePatches
from keras_vit.training.losses import DistillationLoss, SigmoidLoss
from keras_vit.training.masked_autoencoder import MaskedAutoencoder
from keras_vit.training.masked_patch_prediction import MaskedPatchPrediction
from keras_vit.training.muon import Muon
from keras_vit.training.optimizers import SGD, AdamW, Lamb, Lion
from keras_vit.training.parameters import ParameterRow, ParameterTable, parameter_table
from keras_vit.training.pixel_prediction import PixelPrediction
from keras_vit.training.schedules import WarmupSchedule
from keras_vit.training.self_distillation import SelfDistillation
from keras_vit.training.sharding import ModelParallel, layout_map, layout_table

__all__ = [
    "SGD",
    "AdamW",
    "AdaptiveTokens",
    "Distillation",
    "DistillationLoss",
    "FlexiblePatches",
    "Lamb",
    "Lion",
    "MaskedAutoencoder",
    "MaskedPatchPrediction",
    "ModelParallel",
    "Muon",
    "ParameterRow",
    "ParameterTable",
    "PixelPrediction",
    "SelfDistillation",
    "SigmoidLoss",
    "WarmupSchedule",
    "distributed",
    "finetune",
    "layout_map",
    "layout_table",
    "parameter_table",
    "with_distillation_token",
]

# Earlier places of modules that are now in `keras_vit.data`, for one release; configs
# import `Augmentation` from here.
for _name in (
    "augment",
    "class_names",
    "dark_images",
    "decoding",
    "exif",
    "file_bytes",
    "fingerprint",
    "host",
    "pipeline",
    "rand_augment",
    "sources",
    "splits",
):
    sys.modules[f"{__name__}.{_name}"] = importlib.import_module(
        f"keras_vit.data.{_name}"
    )
