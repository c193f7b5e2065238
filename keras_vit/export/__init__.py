"""Export for serving."""

from keras_vit.export.savedmodel import saved_model
from keras_vit.export.serving_config import models_config

__all__ = ["models_config", "saved_model"]
