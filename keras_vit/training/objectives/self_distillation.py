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

# Parts of the highest entropy below and above which outputs count as collapsed.
ONE, UNIFORM = 0.01, 0.99


class Dino(WithoutLabels):
    """Self-distillation of a ViT. The saved model is the teacher's backbone."""

    # The loss does not measure the quality of the features: the targets change with the
    # teacher. So the last checkpoint counts as the best one.
    watched, better = "step", max
    shown = "val_entropy"
    printed = ("entropy",)

    def build(self) -> keras.Model:
        """Build the model to train."""
        settings, optimization = self.config.dino, self.config.optimization
        backbone = self.backbone()
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
            # The teacher moves after every batch, the student after some of them.
            momentum=settings.momentum ** (1 / optimization.accumulation_steps),
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
        """Return a text if the teacher's outputs are uniform, or a single prototype."""
        highest, entropy = self.loss_of_guessing(), row["val_entropy"]
        # A new network has uniform outputs, too; they become sharper in the warm-up.
        trained = row["step"] >= self.config.dino.warmup * steps
        if not trained or ONE * highest < entropy < UNIFORM * highest:
            return None
        outputs, change = "uniform", "lower"
        if entropy <= ONE * highest:
            outputs, change = "a single prototype each", "higher"
        return (
            f"training may have collapsed: the teacher's outputs are {outputs}, with an "
            f"entropy of {entropy:.2f} of {highest:.2f}. Use a {change} "
            "dino.teacher_temperature, a dino.momentum closer to 1 or a lower "
            "optimization.learning_rate."
        )
