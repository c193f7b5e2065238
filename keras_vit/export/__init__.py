"""Export for serving."""

from keras_vit.export.savedmodel import saved_model
from keras_vit.export.serving_config import models_config
from keras_vit.export.single_file import litert, onnx

__all__ = ["litert", "models_config", "onnx", "saved_model"]
