"""Classification losses."""

import keras
from keras import ops

from keras_vit.choices import check_choice
from keras_vit.training.schedules import is_number

# Kinds of `DistillationLoss`.
DISTILLATIONS = ("hard", "soft")


# The package name must not change, because saved models refer to the loss by it.
@keras.saving.register_keras_serializable(package="keras_vit_recipes")
class SigmoidLoss(keras.losses.Loss):
    """Sigmoid cross-entropy, summed over classes, as in big_vision and AugReg.

    Args:
        label_smoothing: float, the part of each label that is replaced by one half.
        binary_labels: bool, whether every label above 0 becomes 1, so that an image mixed
            by mixup or CutMix has both classes (DeiT III).
        **kwargs: arguments of `keras.losses.Loss`.

    Input: labels `(b, classes)` with values 0 to 1, and logits `(b, classes)`.

    Example:

    >>> import numpy as np
    >>> from keras_vit.training import SigmoidLoss
    >>> loss = SigmoidLoss()(np.array([[1.0, 0.0]]), np.array([[0.0, 0.0]]))
    >>> round(float(loss), 4)
    1.3863
    """

    def __init__(self, label_smoothing=0.0, binary_labels=False, **kwargs):
        super().__init__(**kwargs)
        self.label_smoothing = label_smoothing
        self.binary_labels = binary_labels

    def call(self, y_true, y_pred):
        smoothing = self.label_smoothing
        if self.binary_labels:
            y_true = ops.cast(y_true > 0, y_pred.dtype)
        y_true = y_true * (1.0 - smoothing) + 0.5 * smoothing
        losses = ops.binary_crossentropy(y_true, y_pred, from_logits=True)
        return ops.sum(losses, axis=-1)

    def get_config(self):
        own = {"label_smoothing": self.label_smoothing}
        return {**super().get_config(), **own, "binary_labels": self.binary_labels}


@keras.saving.register_keras_serializable(package="keras_vit")
class DistillationLoss(keras.losses.Loss):
    """Loss of a student's logits against those of a teacher, as in DeiT.

    With `kind="hard"`, the class that the teacher predicts is the label of a softmax
    cross-entropy, without label smoothing. With `kind="soft"`, the loss is
    `t ** 2 * KL(softmax(teacher / t), softmax(student / t))` at the temperature `t`.

    Args:
        kind: `"hard"` or `"soft"`.
        temperature: float, temperature of `"soft"`, 3 in the paper.
        **kwargs: arguments of `keras.losses.Loss`.

    Raises:
        ValueError: an argument is out of its range.

    Input: logits `(b, classes)` of the teacher and of the student. Losses have shape
    `(b,)` before the reduction.

    Example:

    >>> import numpy as np
    >>> from keras_vit.training import DistillationLoss
    >>> loss = DistillationLoss("hard")
    >>> round(float(loss(np.array([[2.0, 1.0]]), np.array([[0.0, 0.0]]))), 4)
    0.6931

    Reference: DeiT (arXiv:2012.12877) section 4. Deviation: the authors' code divides
    the soft loss by the number of classes too; here, as in the paper, it is the mean over
    images.
    """

    def __init__(self, kind: str = "hard", temperature: float = 3.0, **kwargs):
        super().__init__(**kwargs)
        check_choice("kind", kind, DISTILLATIONS)
        if not is_number(temperature) or temperature <= 0:
            raise ValueError(
                f"temperature must be a number above 0; received {temperature!r}."
            )
        self.kind = kind
        self.temperature = float(temperature)

    def call(self, y_true, y_pred):
        if self.kind == "hard":
            labels = ops.argmax(y_true, axis=-1)
            return ops.sparse_categorical_crossentropy(labels, y_pred, from_logits=True)
        teacher = ops.log_softmax(y_true / self.temperature, axis=-1)
        student = ops.log_softmax(y_pred / self.temperature, axis=-1)
        divergence = ops.sum(ops.exp(teacher) * (teacher - student), axis=-1)
        return self.temperature**2 * divergence

    def get_config(self):
        config = {"kind": self.kind, "temperature": self.temperature}
        return {**super().get_config(), **config}
