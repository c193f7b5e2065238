"""Export for serving."""

from keras_vit.export.savedmodel import saved_model

__all__ = ["saved_model"]
