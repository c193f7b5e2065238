"""Summary of a run for a person, with an estimate of its duration."""

import keras
import numpy as np

from keras_vit import processes
from keras_vit.data.augment import Augmentation
from keras_vit.data.summary import summary, table
from keras_vit.training import cost, dry_run, runs
from keras_vit.training.callbacks import generators, set_generators, variables
from keras_vit.training.compilation import BACKBONE, frozen_parts

# Number of calls of the train function that are measured.
MEASURED_CALLS = 2


def overview(plan: runs.Plan, model: keras.Model) -> str:
    """Return a text about the data sets and the training of a run.

    Args:
        plan: the plan of the run.
        model: the compiled model. A few steps of it are measured, after which all of its
            variables are restored.
    """
    config, settings = plan.config, plan.config.optimization
    network = plan.objective.kept(model)
    height, width, channels = network.input_shape[1:]
    trained = sum(int(np.prod(v.shape)) for v in model.trainable_variables)
    count, frozen = model.count_params(), ", ".join(frozen_parts(config))
    parameters = f"{count:,} parameters, of which {trained:,} train"
    rate = f"learning rate {settings.learning_rate:g}"
    all_trains = config.lora.rank is None and BACKBONE not in frozen_parts(config)
    if settings.backbone_multiplier != 1 and all_trains:
        lower = settings.learning_rate * settings.backbone_multiplier
        rate += f" for the head and {lower:.2g} for the backbone"
    epochs = plan.steps * config.batch_size / plan.sources["train"].num_examples
    rows = [
        ("model", f"{config.model.weights or config.model.architecture}: {parameters}"),
        ("frozen", frozen or "nothing"),
        *_lora(config.lora),
        *_teacher(config.distillation),
        ("images", f"{width}x{height} pixels, {channels} channels"),
        (
            "training",
            f"{epochs:.3g} epochs, {plan.steps:,} steps of {config.batch_size} images",
        ),
        ("optimizer", f"{settings.optimizer}, {rate}"),
        ("augmentation", described(config.augmentation)),
        ("backend", keras.backend.backend()),
        ("duration", _duration(plan, model)),
    ]
    return f"{summary(plan.sources)}\n{table('Training', rows)}"


def _lora(settings):
    """Return a row about LoRA, or none."""
    if settings.rank is None:
        return []
    layers = ", ".join(settings.layers)
    return [("LoRA", f"rank {settings.rank} for the dense layers of {layers}")]


def _teacher(settings):
    """Return a row about the teacher, or none."""
    if settings.teacher is None:
        return []
    text = f"{settings.teacher}, {settings.kind} labels of weight {settings.alpha:g}"
    return [("teacher", text)]


def described(augmentation: Augmentation) -> str:
    """Return the augmentations that are on as a text.

    Args:
        augmentation: the settings.
    """
    texts = []
    if augmentation.crop_area is not None:
        low, high = (f"{100 * share:g}" for share in augmentation.crop_area)
        texts.append(f"random crop of {low} to {high} % of the area")
    if augmentation.horizontal_flip:
        texts.append("horizontal flip")
    if augmentation.three_augment:
        texts.append("gray, solarized or blurred")
    values = {
        "shift by pixels": augmentation.pad_and_crop,
        "shift by pixels after a resize of the shorter side": augmentation.simple_crop,
        "RandAugment": augmentation.randaugment,
        "color jitter": augmentation.color_jitter,
        "random erasing": augmentation.random_erasing,
        "mixup": augmentation.mixup,
        "CutMix": augmentation.cutmix,
    }
    texts += [f"{name} {value}" for name, value in values.items() if value]
    return ", ".join(texts) or "none"


def _duration(plan, model):
    """Return the estimated duration of a run, measured over a few steps."""
    values = [processes.whole(v) for v in variables(model)]
    states = generators()
    step = dry_run.step_seconds(plan, model, MEASURED_CALLS)
    for variable, value in zip(variables(model), values, strict=True):
        variable.assign(value)
    set_generators(states)
    # An evaluation has no backward pass, which takes two thirds of a step.
    image = step / plan.config.batch_size / 3
    evaluated = plan.sources["validation"].num_examples * plan.steps / plan.interval
    return (
        f"about {readable(step * plan.steps + image * evaluated)} on "
        f"{cost.device_name()}, an estimate from {step:.2g} s for a step"
    )


def readable(seconds: float) -> str:
    """Return a duration in its largest unit.

    Args:
        seconds: the duration.
    """
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
