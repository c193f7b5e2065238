"""Preprocessor of checkpoints that do not state their preprocessing."""

import keras

from keras_vit.layers.preprocessor import Preprocessor


@keras.saving.register_keras_serializable(package="keras_vit")
class UnstatedPreprocessor(Preprocessor):
    """Preprocessor that raises an error, because the right scaling is unknown.

    A model has this preprocessor if neither its checkpoint nor the name of the file
    determines how pixels were scaled in training. The model itself can be used with
    images that the caller has scaled.

    Args:
        origin: str, path of the checkpoint, for the error message.
        **kwargs: arguments of `Preprocessor`.

    Raises:
        ValueError: when the layer is called.
    """

    def __init__(self, origin: str, **kwargs):
        super().__init__(**kwargs)
        self.origin = origin

    def error(self) -> ValueError:
        """Return the error that asks for a preprocessor."""
        return ValueError(
            f"Nothing in {self.origin} or its name shows how pixels are scaled: to -1 to "
            "1 (AugReg, BEiT, SigLIP), or with the mean and std of ImageNet (DeiT, DINO, "
            "MAE) or CLIP. Pass preprocessor=keras_vit.layers.Preprocessor(...) to "
            "load_checkpoint, set model.preprocessor, or put timm's config.json or the "
            "preprocessor_config.json of transformers beside the file."
        )

    def _check(self, images):
        raise self.error()

    def get_config(self):
        return {**super().get_config(), "origin": self.origin}
