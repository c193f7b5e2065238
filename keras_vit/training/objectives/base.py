"""Base class of the training objectives."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_vit.training import config as configs


class Objective:
    """Model to train, its loss and metrics, and the part of it that is saved.

    A subclass also has the methods `build`, `kept`, `saved`, `compilation`, `examples`
    and `loss_of_guessing`; see `Classification`.
    """

    config: configs.Config
    # The metric that selects the best checkpoint, and the function that selects its best
    # value.
    watched: str = "val_accuracy"
    better: Callable = max
    # The metric that is printed at every checkpoint, if it is another one.
    shown: str | None = None
    # Metrics that are printed at the end, besides the loss.
    printed: tuple[str, ...] = ("accuracy",)
    # Whether the saved model can be tested.
    tests_saved: bool = True
    # None, or the `MultiCrop` that cuts every training image.
    crops: Any = None

    @classmethod
    def watched_value(cls, row: Mapping[str, float]) -> float:
        """Return the watched metric of a checkpoint; one that is no number is the worst.

        Args:
            row: the row of the log.
        """
        worst = -math.inf if cls.better is max else math.inf
        return worst if math.isnan(row[cls.watched]) else row[cls.watched]

    def prepare(self, model: keras.Model, plan: Any, resumes: bool) -> None:
        """Initialize the model from the training images; by default, do nothing.

        Args:
            model: the model that `build` returned.
            plan: the `runs.Plan` of the run.
            resumes: whether a checkpoint is restored afterwards.
        """

    def taught(self, batches: Any, model: keras.Model) -> Any:
        """Add a teacher's outputs to training batches; by default, return them unchanged.

        Args:
            batches: a `tf.data.Dataset` of what `examples` returned.
            model: the model to train.
        """
        return batches

    def warning(self, row: Mapping[str, float], steps: int) -> str | None:
        """Return a warning about the metrics of a checkpoint, or None.

        Args:
            row: the row of the log.
            steps: int, number of steps of the run.
        """
        return None
