"""Training runs from a config, resumable at every checkpoint."""

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

import keras_vit
from keras_vit import processes
from keras_vit.atomic_files import write_text
from keras_vit.data import dark_images
from keras_vit.data.class_names import check_class_names
from keras_vit.data.fingerprint import digest
from keras_vit.data.host import tensorflow
from keras_vit.data.pipeline import evaluation_batches, training_batches
from keras_vit.data.source import Source
from keras_vit.data.splits import ids, is_split
from keras_vit.training import (
    class_weights,
    devices,
    duration,
    pictures,
    preemption,
    regression,
    trackers,
)
from keras_vit.training import config as configs
from keras_vit.training.callbacks import RunCallback, evaluated
from keras_vit.training.compilation import compile, freeze, frozen_parts
from keras_vit.training.image_sets import open_parts
from keras_vit.training.objectives import objective
from keras_vit.training.phases import Phase, described, make_phases, next_model, of_size
from keras_vit.training.run_directory import DESCRIPTIONS, RunDirectory, versions

# Upper limit of the default steps_per_execution, by backend. Several steps in one call
# reduce the overhead of `fit` under TensorFlow from 1.8 to 0.4 ms per step; the other
# backends gain nothing.
STEPS_PER_EXECUTION = {"tensorflow": 8}

MOST_CLASSES_COUNTED = 20


class Diverged(SystemExit):
    """Training that stopped because its loss is not finite or has exploded.

    As a `SystemExit` it ends a command with its message in one line and status 1.
    """


@dataclasses.dataclass(frozen=True)
class Plan:
    """Training plan that follows from a config and its data sets.

    Attributes:
        config: the config.
        objective: the training objective; see `keras_vit.training.objectives`.
        sources: dict of the data sets `train`, `validation` and, if there is one, `test`.
        steps: number of batches in the whole run, a multiple of `interval`.
        interval: number of batches between checkpoints.
        updates: number of weight updates in the whole run.
        steps_per_execution: number of batches in one call of the compiled train function.
        phases: the parts of the run with one image size and the same trained weights.
    """

    config: configs.Config
    objective: Any
    sources: dict[str, Source]
    steps: int
    interval: int
    updates: int
    steps_per_execution: int
    phases: tuple[Phase, ...]


def make_plan(
    config: configs.Config, sources: Mapping[str, Source] | None = None
) -> Plan:
    """Open the data sets of a config and plan its run.

    Args:
        config: config of the run.
        sources: dict of the data sets, if they are open already.

    Raises:
        ValueError: a data set does not exist, is too small for one batch or has other
            classes than the training set, or the config is invalid.
    """
    sources = open_parts(config.data) if sources is None else dict(sources)
    train = sources["train"]
    if config.objective == "classification":
        check_classes(sources)
        config = regression.with_scale(config, sources)
    class_weights.check(config, train)
    duration.check_stopping(config)
    devices.check_batch(config.batch_size)
    trackers.check(config.trackers)
    interval, intervals = duration.intervals(config, train)
    steps = intervals * interval
    accumulation = config.optimization.accumulation_steps
    if accumulation < 1:
        raise ValueError(
            f"optimization.accumulation_steps must be 1 or more; received {accumulation}."
        )
    updates = steps // accumulation
    if updates < 1:
        raise ValueError(
            f"{steps} batches are fewer than optimization.accumulation_steps="
            f"{accumulation}: train longer, or accumulate less."
        )
    at_once = config.steps_per_execution
    if at_once is None:
        most = STEPS_PER_EXECUTION.get(keras.backend.backend(), 1)
        at_once = max(n for n in range(1, most + 1) if interval % n == 0)
    if interval % at_once:
        # Keras would run a full execution for the remaining steps too, and so exceed the
        # number of steps in the interval.
        raise ValueError(
            f"steps_per_execution={at_once} must divide the {interval} steps between "
            "checkpoints (checkpoint_steps, or an epoch)."
        )
    return Plan(
        config,
        objective(config, train.class_names),
        sources,
        steps,
        interval,
        updates,
        at_once,
        make_phases(config, intervals),
    )


def check_classes(sources: Mapping[str, Source]) -> None:
    """Check that there are at least two classes, and that all data sets share them.

    Args:
        sources: dict of the data sets, among them `train`.

    Raises:
        ValueError: the training set has only one class, or another data set has different
            classes.
    """
    train = sources["train"]
    if train.labels == "regression" and train.table is not None:
        values = train.table["label"]
        if constant := np.flatnonzero((values == values[0]).all(axis=0)).tolist():
            raise ValueError(
                f"data.train={train.name!r}: {train.class_names[constant[0]]!r} is "
                f"{values[0][constant[0]]:g} for all images: there is nothing to learn."
            )
    elif train.labels == "single" and train.num_classes < 2:
        raise ValueError(
            f"data.train={train.name!r} has one class, {train.class_names[0]!r}: there "
            "is nothing to learn. A folder: source needs one folder for each class; set "
            "data.train to the folder that holds them."
        )
    for part, source in sources.items():
        check_class_names(
            f"data.{part}={source.name!r}",
            source.class_names,
            f"data.train={train.name!r}",
            train.class_names,
            f"Set data.{part} to images of the same classes, or rename its classes.",
        )


def training_data(plan: Plan, model: keras.Model, first_step: int = 0) -> Any:
    """Return an infinite data set of augmented batches for `model.fit`.

    Args:
        plan: the plan of the run.
        model: the model to train.
        first_step: int, the step to start at.
    """
    config = plan.config
    batches = training_batches(
        plan.sources["train"].with_channels(model.input_shape[-1]),
        model.preprocessor,
        config.augmentation,
        config.batch_size,
        config.seed,
        first_step=first_step,
        unreadable=config.data.unreadable,
        cache=config.data.cache,
        shuffle_buffer=config.data.shuffle_buffer,
        sampling=config.data.sampling,
        repeats=config.data.repeats,
        crops=plan.objective.crops,
    )
    batches = plan.objective.examples(batches)
    if config.data.class_weights is not None:
        batches = class_weights.weighted(batches, plan.sources["train"])
    return plan.objective.taught(batches, model)


def evaluation_data(plan: Plan, part: str, model: keras.Model) -> Any:
    """Return a data set with every image once for `model.evaluate`.

    Args:
        plan: the plan of the run.
        part: the data set, `"validation"` or `"test"`.
        model: the model to evaluate.
    """
    config = plan.config
    source = plan.sources[part].with_channels(model.input_shape[-1])
    batches = evaluation_batches(
        source,
        model.preprocessor,
        config.batch_size,
        unreadable=config.data.unreadable,
    )
    batches = plan.objective.examples(batches)
    if config.data.unreadable == "error":  # No image is skipped: the number is known.
        number = math.ceil(source.num_examples / config.batch_size)
        batches = batches.apply(tensorflow().data.experimental.assert_cardinality(number))
    return batches


def train(
    config: configs.Config,
    workdir: str,
    resume: bool | None = None,
    sources: Mapping[str, Source] | None = None,
    confirm: Callable[[Plan, keras.Model], None] | None = None,
) -> dict:
    """Start or resume the run of a config, and return its results.

    Args:
        config: config of the run.
        workdir: directory of the run; see `keras_vit.training.run_directory`.
        resume: None to resume the run if there is one, True to require one, False to
            forbid one.
        sources: dict of the data sets, if they are open already.
        confirm: function of the plan and the compiled model that is called before a new
            run writes anything, and that raises an exception to stop the run.

    Returns:
        The contents of results.json: the row of the log that belongs to best.keras, with
        `test_accuracy` and the other test metrics if there is a test set; `weights`, the
        name of the file; `last`, the same for last.keras; and `stopped_early=True` if
        early stopping ended the run.

    Raises:
        FileExistsError: the directory holds another run or a longer one or other files,
            or is in use.
        FileNotFoundError: `resume=True`, and there is no run.
        ValueError: the config is invalid, the data sets have changed since the last
            checkpoint, or the state of the run is damaged.
        Diverged: the loss is not finite or has exploded.
    """
    keras.utils.set_random_seed(config.seed)
    if config.data.labels == "regression":
        sources = open_parts(config.data) if sources is None else sources
        config = regression.with_scale(config, sources)
    directory = RunDirectory(workdir, configs.to_dict(config), resume)
    with directory.held():
        _check_processes(config, directory)
        plan = make_plan(config, sources)
        duration.check_longer(plan, directory)
        model = plan.objective.build()
        devices.check_heads(model)
        done, resumes = directory.checkpoints(), directory.progress is not None
        plan.objective.prepare(model, plan, resumes=resumes)
        check_phases(plan, model)
        current = max(done + (directory.steps_begun() > 0), 1)
        phases = [phase for phase in plan.phases if phase.last >= current]
        model = of_size(model, phases[0].side)
        compile(model, plan, phases[0])
        callback = RunCallback(
            plan, directory, model, evaluation_data(plan, "validation", model)
        )
        processes.check_equal(
            {f"the images of data.{part}": digest(x) for part, x in callback.data.items()}
        )
        described = False
        if confirm is not None and not resumes:
            confirm(plan, model)
            described = True
        try:
            with trackers.tracking(directory.path, config) as found:
                callback.trackers = keras.callbacks.CallbackList(found)
                _announce(plan, directory, model, callback, described)
                callback.save_if_best()
                with preemption.noticed():
                    model = _train_phases(plan, model, callback, phases, done)
                return _finish(plan, directory, model, callback)
        except KeyboardInterrupt as interruption:
            raise type(interruption)(callback.interruption()) from None


def check_phases(plan: Plan, model: keras.Model) -> None:
    """Raise a ValueError if a later phase cannot train the model.

    Args:
        plan: the plan of the run.
        model: its model, before `compile`.
    """
    for phase in plan.phases:
        freeze(model, frozen_parts(plan.config), phase.lowest)
        try:
            of_size(model, phase.side)
        except ValueError as error:
            raise ValueError(
                f"resolutions={plan.config.resolutions}: images of {phase.side}x"
                f"{phase.side} pixels do not fit the model. {error}"
            ) from error


def _check_processes(config, directory):
    """Raise a ValueError if several processes are not about to train the same run."""
    sections = {
        f"the config's {key}": value
        for key, value in configs.to_dict(config).items()
        if key not in DESCRIPTIONS
    }
    found = {
        "package versions": versions(),
        "the number of checkpoints so far": directory.checkpoints(),
        "the number of steps since then": directory.steps_begun(),
    }
    processes.check_equal({**sections, **found})


def _train_phases(plan, model, callback, phases, done):
    """Train in the remaining phases and return the model of the last one."""
    for phase in phases:
        if phase != phases[0]:
            print(f"Training continues {described(phase)}.", flush=True)
            model = next_model(model, phase, plan)
            callback.watch(model, evaluation_data(plan, "validation", model))
        _fit(plan, model, callback, max(done, phase.first), phase.last)
    return model


def _announce(plan, directory, model, callback, described):
    """Write the first files of a run and print a summary, unless it was described."""
    directory.record()
    names = list(plan.sources["train"].class_names)
    write_text(directory.path / "classes.json", json.dumps(names, indent=0))
    if is_split(plan.config.data.validation):
        splits = json.dumps(ids(plan.sources), indent=0)
        write_text(directory.path / "splits.json", splits)
    if not described:
        _describe(plan, directory, model)
    if callback.history:
        # The log may have rows after the state that is restored: the run was killed
        # between the two writes, or a damaged state was replaced by the one before.
        directory.save_history(callback.history)
    if callback.step:
        print(f"Resumed at step {callback.step:,}.", flush=True)
    if directory.duration_before():
        print(
            f"The run becomes longer: it now has {plan.steps:,} steps. From step "
            f"{callback.step:,} on, the learning rate is that of a run of this length.",
            flush=True,
        )
    if directory.damage:
        print(
            f"warning: {directory.damage}. The run resumes from the state before it: the "
            f"steps after step {callback.step:,} are trained again.",
            flush=True,
        )


def _describe(plan, directory, model):
    config, source = plan.config, plan.sources["train"]
    names = list(source.class_names)
    for part, examples in plan.sources.items():
        print(f"data.{part}: {examples.num_examples:,} images of {examples.name}")
        if examples.class_counts is not None:
            print(f"  of each class: {_counts(examples)}")
    print(f"{len(names):,} classes: {', '.join(names[:10])}{', ...' * (len(names) > 10)}")
    print(
        f"{config.about}\n{model.count_params():,} parameters; {source.num_examples:,} "
        f"images of {source.name}; {plan.steps:,} steps of {config.batch_size}, a "
        f"checkpoint every {plan.interval:,}; backend {keras.backend.backend()}"
        f"{_on_devices()}; "
        f"output directory {directory.path}/",
        flush=True,
    )
    for source in plan.sources.values():
        dark_images.warn(source)


def _on_devices():
    """Return the number of devices as the rest of a sentence, empty for one."""
    mesh = devices.mesh_in_use()
    if mesh is None:
        return ""
    split = "; weights fully sharded" if mesh.pop("fully_sharded") else ""
    return f" on {' x '.join(map(str, mesh.values()))} devices{split}"


def _counts(source):
    """Return a text that lists the number of images in each of the largest classes."""
    counts = zip(source.class_names, source.class_counts, strict=True)
    largest = sorted(counts, key=lambda row: -row[1])[:MOST_CLASSES_COUNTED]
    texts = [f"{name} {count:,}" for name, count in largest]
    return ", ".join(texts) + ", ..." * (source.num_classes > len(texts))


def _fit(plan, model, callback, first, last):
    if first < last and callback.begun:
        first_step = first * plan.interval + callback.begun["steps"]
        # Under TensorFlow, the first step creates the variables of the metrics, which the
        # callback restores before. Under torch, the first one draws random numbers.
        model.evaluate(callback.validation, steps=1, verbose=0)
        if left := (first + 1) * plan.interval - first_step:
            _steps(plan, model, callback, first_step, left, (first, first + 1))
        else:
            callback.evaluate_begun(first)
        first += 1
    if first < last and not callback.failure and not callback.stops_early():
        first_step = first * plan.interval
        _steps(plan, model, callback, first_step, plan.interval, (first, last))
    if callback.failure:
        raise Diverged(callback.failure)
    if callback.stops_early():
        watched = callback.objective.watched
        print(
            f"Early stopping: the last {plan.config.early_stopping} checkpoints have no "
            f"better {watched} than {callback.best_row()[watched]:.4f}. To train "
            "further, repeat the command with a larger early_stopping, or None.",
            flush=True,
        )


def _steps(plan, model, callback, first_step, steps, epochs):
    """Train for some intervals of so many steps."""
    model.fit(
        training_data(plan, model, first_step),
        steps_per_epoch=steps,
        initial_epoch=epochs[0],
        epochs=epochs[1],
        callbacks=[callback],
        shuffle=False,  # The data set is shuffled already.
        verbose=1 if sys.stdout.isatty() else 2,
    )


def _finish(plan, directory, model, callback):
    """Test and save the model, write and print the results, and return them.

    The results are those of best.keras, which the other commands use. Those of last.keras
    are under `last`.
    """
    last = {"weights": "last.keras", **callback.history[-1]}
    best = {"weights": "best.keras", **callback.best_row()}
    with callback.averaged():
        last |= _tested(plan, model)
        callback.save(model, "last")
    if best["step"] == last["step"]:
        best = {**last, "weights": "best.keras"}
    elif plan.objective.tests_saved:  # Not a backbone without its training objective.
        processes.wait("best.keras is written")
        saved = keras_vit.load_checkpoint(
            directory.path / "best.keras", classifier_activation=None
        )
        saved = plan.objective.restored(saved)
        saved.compile(**plan.objective.compilation())
        best |= _tested(plan, saved)
    results = {**best, "last": last}
    if callback.stops_early():
        results["stopped_early"] = True
    write_text(directory.path / "results.json", json.dumps(results, indent=1))
    trained = plan.config.model.weights or plan.config.model.architecture
    pictures.learning_curves({trained: callback.curves()}, directory.path / "curves.png")
    same = best["step"] == last["step"]
    for row in (best,) if same else (best, last):
        files = "best.keras and last.keras" if same else row["weights"]
        print(f"{files}, of step {row['step']:,}:")
        for metric in (*plan.objective.printed, "loss"):
            for name in (f"test_{metric}", f"val_{metric}"):
                if name in row:
                    form = ".2%" if "accuracy" in name else ".4f"
                    print(f"  {name}: {row[name]:{form}}")
    print(f"models, log and curves: {directory.path}/")
    if not same:
        print(
            f"Commands that are given {directory.path} use its best.keras; to use the "
            f"other one, give them {directory.path}/last.keras."
        )
    return results


def _tested(plan, model):
    """Return the metrics on the test set, or an empty dict if there is no test set."""
    if "test" not in plan.sources:
        return {}
    data = evaluation_data(plan, "test", model)
    return {f"test_{name}": value for name, value in evaluated(model, data).items()}
