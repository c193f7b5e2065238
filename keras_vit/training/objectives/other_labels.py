"""Objectives for images with several classes each, or with numbers."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.training import regression
from keras_vit.training.losses import SigmoidLoss
from keras_vit.training.objectives.classification import Classification


class MeanAveragePrecision(keras.metrics.AUC):
    """Area under the curve of precision and recall, mean over the classes that occur.

    Keras's metric counts classes without images as 0.

    Args:
        classes: int, number of classes.
    """

    def __init__(self, classes: int):
        super().__init__(
            num_thresholds=1000,
            curve="PR",
            multi_label=True,
            num_labels=classes,
            name="mean_average_precision",
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Add the logits `y_pred` and the labels `y_true`, both `(b, classes)`."""
        # Only their order matters: flat sigmoids also tell small probabilities apart.
        super().update_state(y_true, ops.sigmoid(y_pred / 4), sample_weight)

    def result(self):
        occurs = self.true_positives[0] + self.false_negatives[0] > 0
        share = ops.mean(ops.cast(occurs, self.dtype))
        return ops.divide_no_nan(super().result(), share)


class MultiLabel(Classification):
    """Classification of images that have any number of classes."""

    watched, better = "val_mean_average_precision", max
    printed = ("mean_average_precision", "label_accuracy")

    def compilation(self) -> dict[str, Any]:
        """Return the arguments of `compile` for the loss and the metrics."""
        return {
            "loss": SigmoidLoss(label_smoothing=self._label_smoothing()),
            "weighted_metrics": [
                MeanAveragePrecision(self.classes),
                keras.metrics.BinaryAccuracy(threshold=0.0, name="label_accuracy"),
            ],
        }

    def loss_of_guessing(self) -> float:
        """Return the loss of sigmoids that are all one half."""
        return self.classes * math.log(2)


class Regression(Classification):
    """Prediction of one or several numbers, which are standardized for training."""

    watched, better = "val_mean_absolute_error", min
    printed = ("mean_absolute_error", "r2")

    @property
    def _scale(self):
        scale = self.config.data.scale
        assert scale is not None  # A run sets it before it builds the objective.
        return scale

    def build(self) -> keras.Model:
        """Build the model to train, which returns standardized values."""
        model = super().build()
        if self.config.model.arguments.get("head") == "keep":
            regression.standardized(model, self._scale)
        return model

    def saved(self, model: keras.Model) -> keras.Model:
        """Return the model to save, a copy that returns the values in their own units."""
        copy = super().saved(model)
        regression.in_own_units(copy, self._scale)
        return copy

    def restored(self, saved: keras.Model) -> keras.Model:
        """Return the model to test from one that `saved` returned."""
        regression.standardized(saved, self._scale)
        return saved

    def compilation(self) -> dict[str, Any]:
        """Return the arguments of `compile` for the loss and the metrics.

        Raises:
            ValueError: `optimization.label_smoothing` is not 0.
        """
        if smoothing := self.config.optimization.label_smoothing:
            raise ValueError(
                f"optimization.label_smoothing={smoothing} requires classes, and "
                "data.labels is 'regression'. Set it to 0."
            )
        deviations = [deviation for _, deviation in self._scale]
        return {
            "loss": keras.losses.MeanSquaredError(),
            "weighted_metrics": [
                regression.MeanAbsoluteError(deviations),
                keras.metrics.R2Score(name="r2"),
            ],
        }

    def examples(self, batches: Any) -> Any:
        """Return the batches with standardized values."""
        mean, deviation = np.array(self._scale, "float32").T

        def standardized(images, values, *weights):
            return images, (values - mean) / deviation, *weights

        return batches.map(standardized)

    def loss_of_guessing(self) -> float:
        """Return the loss of predicting the means."""
        return 1.0
