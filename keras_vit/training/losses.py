"""Classification losses."""

import keras


# The package name must not change, because saved models refer to the loss by it.
@keras.saving.register_keras_serializable(package="keras_vit_recipes")
class SigmoidLoss(keras.losses.Loss):
    """Sigmoid cross-entropy, summed over classes, as in big_vision and AugReg.

    Args:
        label_smoothing: float, the part of each label that is replaced by one half.
        **kwargs: arguments of `keras.losses.Loss`.

    Input: labels `(b, classes)` with values 0 to 1, and logits `(b, classes)`.

    Example:

    >>> import numpy as np
    >>> from keras_vit.training import SigmoidLoss
    >>> loss = SigmoidLoss()(np.array([[1.0, 0.0]]), np.array([[0.0, 0.0]]))
    >>> round(float(loss), 4)
    1.3863
    """

    def __init__(self, label_smoothing=0.0, **kwargs):
        super().__init__(**kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        smoothing = self.label_smoothing
        y_true = y_true * (1.0 - smoothing) + 0.5 * smoothing
        losses = keras.ops.binary_crossentropy(y_true, y_pred, from_logits=True)
        return keras.ops.sum(losses, axis=-1)

    def get_config(self):
        return {**super().get_config(), "label_smoothing": self.label_smoothing}
