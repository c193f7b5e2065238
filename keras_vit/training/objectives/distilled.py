"""Classification with a teacher."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_vit.training import config as configs
from keras_vit.training import teachers
from keras_vit.training.distillation import Distillation
from keras_vit.training.objectives.classification import BackboneClassification


class DistilledClassification(BackboneClassification):
    """Classification that also learns the outputs of a teacher (DeiT)."""

    def __init__(self, config: configs.Config, names: Sequence[str]):
        super().__init__(config, names)
        _check(config)
        self.teacher = teachers.load(config, names)

    def trainer(self, network: keras.Model) -> keras.Model:
        """Return a `Distillation` of the network.

        Args:
            network: a model that returns logits.
        """
        settings = self.config.distillation
        model = self.teacher if isinstance(self.teacher, keras.Model) else None
        return Distillation(
            network, model, settings.kind, settings.alpha, settings.temperature
        )

    def loss_of_guessing(self) -> float:
        """Return the loss of a uniform softmax beside a teacher that is certain."""
        settings, guess = self.config.distillation, super().loss_of_guessing()
        if settings.kind != "soft":
            return guess
        return guess * (1 - settings.alpha + settings.alpha * settings.temperature**2)

    def restored(self, saved: keras.Model) -> keras.Model:
        """Return the model to test, which is the saved student.

        Args:
            saved: the model from the file, without the activation of its classifier.
        """
        return saved

    def taught(self, batches: Any, model: keras.Model) -> Any:
        """Return training batches with the outputs of an exported teacher.

        Args:
            batches: a `tf.data.Dataset` of images, labels and perhaps weights.
            model: the `Distillation` to train.

        Returns:
            The batches, unchanged if the teacher is a Keras model, which runs in the
            training step.
        """
        if isinstance(self.teacher, keras.Model):
            return batches
        return teachers.with_logits(batches, self.teacher, model.student)


def _check(config):
    """Raise a `ValueError` if a setting does not go with a teacher."""
    if config.optimization.loss != "softmax":
        raise ValueError(
            "distillation.teacher requires optimization.loss='softmax', whose outputs "
            f"are compared with the teacher's; received {config.optimization.loss!r}."
        )
    if config.flexible.patch_sizes:
        raise ValueError(
            "distillation.teacher is not possible with flexible.patch_sizes; received "
            f"{config.flexible.patch_sizes}. Set one of them."
        )
    if config.adaptive.ponder_weight is not None:
        raise ValueError(
            "distillation.teacher is not possible with adaptive.ponder_weight; received "
            f"{config.adaptive.ponder_weight}. Set one of them."
        )
