"""The optimizer, loss and metrics of a run, and the weights that it trains."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keras_vit.choices import check_choice
from keras_vit.layers.base import make_trainable
from keras_vit.models.lora import bases, is_factor
from keras_vit.training import (
    SGD,
    AdamW,
    Lamb,
    Lion,
    Muon,
    ParameterTable,
    WarmupSchedule,
    parameter_table,
)
from keras_vit.training import config as configs
from keras_vit.training.parameters import hidden_matrices

# Name in `optimization.frozen` that stands for all weights except those of the head and
# the factors of LoRA.
BACKBONE = "backbone"
# Names of parts in `optimization.unfreeze`.
HEAD_ONLY, EVERYTHING = "head", "all"
# Pattern of the paths of the head's weights.
HEAD = "^(pre_logits|.*classifier)/"

# The class of each optimizer, and the settings that its arguments have.
BETAS = {"beta_1": "beta_1", "beta_2": "beta_2"}
OPTIMIZERS: dict[str, tuple[Any, dict[str, str]]] = {
    "adamw": (AdamW, BETAS),
    "adam": (AdamW, BETAS),
    "sgd": (SGD, {"momentum": "momentum"}),
    "lion": (Lion, BETAS),
    "lamb": (Lamb, BETAS),
    "muon": (
        Muon,
        {"momentum": "momentum", "adam_beta_1": "beta_1", "adam_beta_2": "beta_2"},
    ),
}


def compile(model: keras.Model, plan: Any, phase: Any = None) -> None:
    """Compile a model with the optimizer, the loss and the metrics of its run.

    Args:
        model: the model to train.
        plan: the `runs.Plan` of the run.
        phase: the `phases.Phase` of the run; None to train all weights that the run
            trains at any time.

    Raises:
        ValueError: an invalid value in `optimization` of the config.
    """
    settings = plan.config.optimization
    freeze(model, frozen_parts(plan.config), phase and phase.lowest)

    def part(name):
        steps = getattr(settings, name)
        if steps < 1:
            return round(steps * plan.updates)
        if steps != round(steps):
            raise ValueError(
                f"optimization.{name} must be a fraction below 1 or a whole number of "
                f"updates; received {steps!r}."
            )
        return round(steps)

    schedule = WarmupSchedule(
        settings.learning_rate,
        plan.updates,
        decay=settings.schedule,
        warmup_steps=part("warmup_steps"),
        start=settings.warmup_start,
        final=settings.final_learning_rate,
        cooldown_steps=part("cooldown_steps"),
    )
    # Keras's default does not use XLA on CPUs under TensorFlow; torch has no XLA.
    jit = {"jax": True, "tensorflow": plan.config.jit_compile, "torch": False}
    model.compile(
        make_optimizer(model, settings, schedule, first_updates(model, plan, phase)),
        **plan.objective.compilation(),
        steps_per_execution=plan.steps_per_execution,
        jit_compile=jit[keras.backend.backend()],
    )
    model.optimizer.build(model.trainable_variables)


def make_optimizer(
    model: keras.Model,
    settings: configs.Optimization,
    learning_rate: Any,
    first_updates: Mapping[str, int] | None = None,
) -> keras.optimizers.Optimizer:
    """Return the optimizer that the settings name.

    Args:
        model: the model to train.
        settings: the settings of the optimizer.
        learning_rate: the learning rate or schedule.
        first_updates: dict from path to the number of updates before the first one of
            the variable, 0 for others.

    Raises:
        ValueError: there is no such optimizer, or it does not fit the model or the other
            settings.
    """
    check_choice("optimization.optimizer", settings.optimizer, OPTIMIZERS)
    cls, own = OPTIMIZERS[settings.optimizer]
    starts = first_updates or {}
    table = ParameterTable(
        row._replace(first_update=starts.get(row.path, 0))
        for row in parameters(model, settings)
    )
    if cls is Muon and not hidden_matrices(model.weights_by_path()):
        raise ValueError(
            "optimization.optimizer='muon' trains the kernels of Transformer blocks, and "
            f"{model.name!r} has none. Use 'adamw'."
        )
    if cls is Lamb and not settings.scaled_decay:
        raise ValueError(
            "optimization.scaled_decay=False requires decoupled weight decay, which "
            "'lamb' does not have. Set scaled_decay=True or another optimizer."
        )
    if settings.accumulation_steps > 1:
        own = {**own, "gradient_accumulation_steps": "accumulation_steps"}
    return cls(
        learning_rate,
        table,
        ema_decay=settings.ema,
        global_clipnorm=settings.clip_norm,
        **{argument: getattr(settings, name) for argument, name in own.items()},
    )


def first_updates(model: keras.Model, plan: Any, phase: Any = None) -> dict[str, int]:
    """Return the number of updates before the first one of each weight.

    Args:
        model: the model to train.
        plan: the `runs.Plan` of the run.
        phase: the phase up to which weights have started to train; None for no phases.

    Returns:
        Dict from the path of a weight to the number, without weights that train from the
        beginning.
    """
    starts: dict[str, int] = {}
    for one in reversed(plan.phases):
        if phase is None or one.last > phase.last:
            continue
        frozen = frozen_paths(model, frozen_parts(plan.config), one.lowest)
        update = one.first * plan.interval // plan.config.optimization.accumulation_steps
        starts |= {path: update for path in model.weights_by_path() if path not in frozen}
    return {path: update for path, update in starts.items() if update}


def frozen_parts(config: configs.Config) -> tuple[str, ...]:
    """Return the prefixes of the paths of weights that do not train in a run.

    Args:
        config: config of the run.
    """
    backbone = () if config.lora.rank is None else (BACKBONE,)
    return (*backbone, *config.optimization.frozen)


def freeze(model: keras.Model, frozen: Sequence[str], lowest: str | None = None) -> None:
    """Make all weights of a model trainable except those with some path prefixes.

    Weights that the checkpoint of the model had frozen become trainable.

    Args:
        model: the model to train.
        frozen: prefixes of paths. The whole path of a layer matches that layer only:
            `"block_1"` does not freeze block_10, and `"block_"` freezes all blocks.
            `"backbone"` freezes everything except the head and the factors of LoRA.
        lowest: prefix of paths, of which the first and all weights above train;
            `"head"` for the head only. None or `"all"` freezes nothing more.

    Raises:
        ValueError: a prefix matches no path, or no trainable weight is left.
    """
    make_trainable(model)
    paths = model.weights_by_path()
    for path in frozen_paths(model, frozen, lowest):
        paths[path].trainable = False
    if not model.trainable_weights:
        unfreeze = f" and the part {lowest!r} of optimization.unfreeze" if lowest else ""
        raise ValueError(
            f"optimization.frozen={tuple(frozen)!r}{unfreeze} leaves nothing to train: "
            "freeze less."
        )


def frozen_paths(
    model: keras.Model, frozen: Sequence[str], lowest: str | None = None
) -> set[str]:
    """Return the paths of the weights that `freeze` freezes.

    Args:
        model: the model to train.
        frozen: as for `freeze`.
        lowest: as for `freeze`.

    Raises:
        ValueError: a prefix matches no path.
    """
    paths = list(model.weights_by_path())
    # LoRA trains low-rank factors instead.
    found = set(bases(getattr(model, "backbone", model)))
    for prefix in frozen:
        found.update(_of_prefix(paths, prefix, "frozen"))
    if lowest == HEAD_ONLY:
        found.update(path for path in paths if not re.match(HEAD, path))
    elif lowest not in (None, EVERYTHING):
        first = _of_prefix(paths, lowest, "unfreeze")[0]
        found.update(paths[: paths.index(first)])
    return found


def _of_prefix(paths, prefix, setting):
    """Return the paths in the layer `prefix`, or else all paths that start with it."""
    if prefix == BACKBONE:
        return [path for path in paths if _is_backbone(path)]
    found = []
    if prefix and isinstance(prefix, str):
        whole = [p for p in paths if f"{p}/".startswith(f"{prefix.rstrip('/')}/")]
        found = whole or [p for p in paths if p.startswith(prefix)]
    if not found:
        near = difflib.get_close_matches(str(prefix), _beginnings(paths), 3, 0.5)
        raise ValueError(
            f"optimization.{setting}: no weight has a path that begins with {prefix!r}."
            + (f" Did you mean {' or '.join(map(repr, near))}?" if near else "")
            + f" The paths begin with {', '.join(_beginnings(paths, 1))}."
        )
    return found


def _is_backbone(path):
    return not re.match(HEAD, path) and not is_factor(path)


def _beginnings(paths, depth=None):
    """Return the paths of all weights and layers in order, up to a depth."""
    found: dict[str, None] = {}
    for path in paths:
        names = path.split("/")
        for length in range(1, len(names[:depth]) + 1):
            found["/".join(names[:length])] = None
    return list(found)


def parameters(model: keras.Model, settings: configs.Optimization) -> ParameterTable:
    """Build the table of learning rates and weight decays, one row per variable.

    Args:
        model: the model to train.
        settings: the settings of the optimizer.
    """
    rates = {}
    trained = [path for path, w in model.weights_by_path().items() if w.trainable]
    backbone = any(_is_backbone(path) for path in trained)
    if backbone and settings.backbone_multiplier != 1.0:
        # The first matching rule applies.
        rates = {HEAD: 1.0, "": settings.backbone_multiplier}
    return parameter_table(
        model,
        weight_decay=settings.weight_decay,
        layer_decay=None if settings.layer_decay == 1.0 else settings.layer_decay,
        rates=rates,
        peak_learning_rate=None if settings.scaled_decay else settings.learning_rate,
    )
