"""Suggested settings for fine-tuning, by the images, the checkpoint and the machine."""

import dataclasses
import math

from keras_vit.data.augment import Augmentation
from keras_vit.training import config as configs
from keras_vit.training.compilation import BACKBONE

# Batch size up to a number of training images. Small sets need many updates more than
# smooth gradients.
BATCH_SIZES = ((400, 8), (1_500, 16), (20_000, 32), (100_000, 64), (math.inf, 128))
# Number of steps in which a new head converges. A step takes seconds on CPUs.
STEPS = {"cpu": 300, "accelerator": 500}
# Range of the number of epochs. The upper limit keeps tiny sets from being memorized; the
# lower limit gives large sets more steps.
EPOCHS = (3, 40)
# Mean number of images per class below which only the head trains: the backbone has
# thousands of weights for every image, and would memorize them. Smaller models than the
# second number have no general features to keep.
FROZEN_BELOW, FROZEN_FROM = 20, 1_000_000
# On CPUs, a backbone with more parameters stays frozen for sets of less than so many
# images: its backward pass takes hours there and gains a few percent.
FROZEN_ON_CPU = (50_000_000, 1_000)
# Sets of up to so many images train low-rank updates (LoRA) of backbones with at least so
# many parameters, on CPUs and on accelerators: the gradients and moments of all weights
# take four times the memory of the model. Larger sets can afford to train all weights.
LORA_UP_TO, LORA_FROM = 10_000, {"cpu": 20_000_000, "accelerator": 150_000_000}
LORA_RANK = 8
# Learning rate of a new head and of the factors of LoRA with AdamW, and of the pretrained
# weights relative to it, by their number: large models diverge or forget at rates that
# small ones need (docs/training.md has a ViT-S/14 at two of them).
HEAD_RATE = 1e-3
BACKBONE_RATES = ((1e6, 1.0), (1e7, 0.1), (1.5e8, 0.01), (math.inf, 0.005))
# Smallest share of the image's area that a random crop covers, by the number of images:
# large sets can afford stronger augmentation.
CROPS = ((1_000, 0.5), (10_000, 0.25), (math.inf, 0.08))
# RandAugment slows the convergence of small sets.
RAND_AUGMENT_FROM = 10_000
# A model that takes much longer for a step than for a call gains nothing from several
# steps in one call, and then measuring a few steps would take minutes.
ONE_STEP_PER_CALL_FROM = 1_000_000


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts that the settings depend on.

    Attributes:
        images: number of training images.
        classes: number of classes.
        parameters: number of parameters of the model.
        channels: number of channels of its images.
        accelerator: whether the backend uses a GPU or TPU.
    """

    images: int
    classes: int
    parameters: int
    channels: int
    accelerator: bool


def suggested(
    config: configs.Config, facts: Facts, unfreezes: bool = False
) -> configs.Config:
    """Return a config with suggested settings; the data and the model stay.

    Args:
        config: config with the data sets and the checkpoint.
        facts: the facts that the settings depend on.
        unfreezes: bool, whether the run unfreezes the backbone gradually. Then neither a
            frozen backbone nor LoRA is suggested.
    """
    batch = min(_of(BATCH_SIZES, facts.images), facts.images)
    steps_per_epoch = facts.images / batch
    epochs = STEPS[_machine(facts)] / steps_per_epoch
    epochs = math.ceil(min(max(epochs, EPOCHS[0]), EPOCHS[1]))
    crop, channels = _of(CROPS, facts.images), facts.channels
    strong = facts.images >= RAND_AUGMENT_FROM and channels == 3
    frozen = freezes(facts) and not unfreezes
    low_rank = adapts(facts) and not frozen and not unfreezes
    optimization = configs.Optimization(
        optimizer="adamw",
        learning_rate=HEAD_RATE,
        weight_decay=0.05,
        # It has no effect on frozen weights, until a user sets `frozen` or `lora.rank`.
        backbone_multiplier=_of(BACKBONE_RATES, facts.parameters),
        frozen=(BACKBONE,) if frozen else (),
    )
    return dataclasses.replace(
        config,
        batch_size=batch,
        epochs=epochs,
        optimization=optimization,
        lora=configs.LoRA(rank=LORA_RANK) if low_rank else config.lora,
        augmentation=Augmentation(
            crop_area=(crop, 1.0),
            horizontal_flip=True,
            randaugment="randaug(2,10)" if strong else None,
        ),
        steps_per_execution=1 if facts.parameters >= ONE_STEP_PER_CALL_FROM else None,
    )


def freezes(facts: Facts) -> bool:
    """Return True if only the head trains.

    Args:
        facts: the facts that the settings depend on.
    """
    parameters, images = FROZEN_ON_CPU
    slow = (
        not facts.accelerator and facts.parameters > parameters and facts.images < images
    )
    tiny = facts.images < FROZEN_BELOW * facts.classes
    return slow or (tiny and facts.parameters >= FROZEN_FROM)


def adapts(facts: Facts) -> bool:
    """Return True if low-rank updates of the backbone train, and the head.

    Args:
        facts: the facts that the settings depend on.
    """
    large = facts.parameters >= LORA_FROM[_machine(facts)]
    return large and facts.images <= LORA_UP_TO


def _machine(facts):
    return "accelerator" if facts.accelerator else "cpu"


def _of(table, number):
    return next(value for limit, value in table if number <= limit)
