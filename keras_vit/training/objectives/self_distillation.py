"""Objective that distills a network from its own average (DINO)."""

import math
from collections.abc import Mapping
from typing import Any

import keras

from keras_vit.data.host import tensorflow
from keras_vit.data.multi_crop import MultiCrop
from keras_vit.training import SelfDistillation
from keras_vit.training.objectives.without_labels import WithoutLabels
from keras_vit.training.self_distillation import whole_views

# Part of the highest entropy from which on outputs count as uniform.
COLLAPSED = 0.99


class Dino(WithoutLabels):
    """Self-distillation of a ViT. The saved model is the teacher's backbone."""

    # The loss does not measure the quality of the features: the targets change with the
    # teacher. So the last checkpoint counts as the best one.
    watched, better = "step", max
    printed = ("entropy",)

    def build(self) -> keras.Model:
        """Build the model to train."""
        settings, backbone = self.config.dino, self.backbone()
        side = settings.local_size
        patch = backbone.get_layer("patches").patch_size
        height, width = (
            side or max(1, s // 2 // patch) * patch for s in backbone.input_shape[1:3]
        )
        # The pipeline of the run reads this.
        self.crops = MultiCrop(
            settings.local_crops,
            (height, width),
            settings.global_area,
            settings.local_area,
        )
        return SelfDistillation(
            backbone,
            self.crops,
            prototypes=settings.prototypes,
            head_dim=settings.head_dim,
            bottleneck_dim=settings.bottleneck_dim,
            momentum=settings.momentum,
            teacher_temperature=settings.teacher_temperature,
            warmup_temperature=settings.warmup_temperature,
            warmup=settings.warmup,
            frozen=settings.frozen,
        )

    def prepare(self, model: keras.Model, plan: Any, resumes: bool) -> None:
        """Set the length of the schedules.

        Args:
            model: the model that `build` returned.
            plan: the `runs.Plan` of the run.
            resumes: bool, whether the run resumes.
        """
        model.network.numbers["steps"] = plan.steps

    def saved(self, model: keras.Model) -> keras.Model:
        """Return the model to save, a copy of the backbone with the teacher's weights."""
        return model.teacher()

    def examples(self, batches: Any) -> Any:
        """Return batches of crops; those of evaluations repeat the whole images.

        Args:
            batches: a `tf.data.Dataset`.
        """
        tf = tensorflow()
        if isinstance(batches.element_spec[0], dict):
            return batches

        def views(images, *others):
            return (whole_views(images, self.crops, tf), *others)

        return batches.map(views)

    def loss_of_guessing(self) -> float:
        """Return the cross-entropy of a uniform distribution."""
        return math.log(self.config.dino.prototypes)

    def warning(self, row: Mapping[str, float], steps: int) -> str | None:
        """Return a text once the teacher's outputs say nothing about an image."""
        settings, highest = self.config.dino, self.loss_of_guessing()
        entropy = row["val_entropy"]
        # A new network has such outputs, too; they become sharper in the warm-up.
        if row["step"] < settings.warmup * steps or entropy < COLLAPSED * highest:
            return None
        return (
            f"training has collapsed: the teacher's outputs are uniform, with an entropy "
            f"of {entropy:.2f} of {highest:.2f}. Use a lower dino.teacher_temperature, a "
            "dino.momentum closer to 1 or a lower optimization.learning_rate."
        )
