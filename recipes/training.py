"""A training run: from a config to weights, resumable at every checkpoint."""

import contextlib
import dataclasses
import json
import math
import sys
import time
from typing import Any

import keras

import keras_vit
from keras_vit.training import SGD, AdamW, WarmupSchedule, parameter_table
from keras_vit.training.host import tensorflow
from keras_vit.training.pipeline import batch_ids, evaluation_batches, training_batches
from keras_vit.training.sources import Source, open_source
from recipes import config as configs
from recipes import pictures
from recipes.run_directory import RunDirectory, write_text

# Most steps that TensorFlow takes at once: its fit then costs 0.4 in place of 1.8 ms a
# step. Nothing is gained elsewhere.
STEPS_PER_EXECUTION = {"tensorflow": 8}
# A loss that is so many times that of guessing has exploded.
EXPLODED = 10.0


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a config comes to with its data.

    Attributes:
        sources: dict of `train`, `validation` and, where there is one, `test`.
        steps: batches of the whole run, a multiple of `interval`.
        interval: batches between checkpoints.
        updates: of the weights, in the whole run.
        steps_per_execution: batches between two looks at the loss.
    """

    sources: dict[str, Source]
    steps: int
    interval: int
    updates: int
    steps_per_execution: int


def plan(config: configs.Config) -> Plan:
    """Opens the data, and counts.

    Raises:
        ValueError: a set that is not there, too small for one batch, or of other classes
            than the training set.
    """
    data = config.data
    names = {"train": data.train, "validation": data.validation, "test": data.test}
    sources = {
        part: open_source(name, data.data_dir, data.download)
        for part, name in names.items()
        if name is not None
    }
    train = sources["train"]
    for part, source in sources.items():
        if source.num_classes != train.num_classes:
            raise ValueError(
                f"data.{part}={source.name!r} has {source.num_classes} classes, "
                f"data.train={train.name!r} {train.num_classes}."
            )
    interval = config.checkpoint_steps or train.num_examples // config.batch_size
    if interval < 1:
        raise ValueError(
            f"batch_size={config.batch_size} is more than the {train.num_examples} "
            f"images of {train.name!r}."
        )
    steps = config.epochs * train.num_examples / config.batch_size
    steps = max(round(steps / interval), 1) * interval
    updates = steps // config.optimization.accumulation_steps
    if updates < 1:
        raise ValueError(
            f"{steps} batches make no update with optimization.accumulation_steps="
            f"{config.optimization.accumulation_steps}."
        )
    at_once = config.steps_per_execution
    if at_once is None:
        most = STEPS_PER_EXECUTION.get(keras.backend.backend(), 1)
        at_once = max(n for n in range(1, most + 1) if interval % n == 0)
    if interval % at_once:
        # Keras would take the remaining steps at once too, and with them too many.
        raise ValueError(
            f"steps_per_execution={at_once} must divide the {interval} steps between "
            "checkpoints (checkpoint_steps, or an epoch)."
        )
    return Plan(sources, steps, interval, updates, at_once)


def build(config: configs.Config, classes: int) -> keras.Model:
    """The model, which gives logits."""
    arguments = {"classes": classes, "dtype": config.dtype, **config.model.arguments}
    arguments = {**arguments, "classifier_activation": None}
    arguments = {k: tuple(v) if type(v) is list else v for k, v in arguments.items()}
    if config.model.weights is not None:
        return keras_vit.load_checkpoint(
            config.model.weights, **{"head": "new", **arguments}
        )
    constructor = getattr(keras_vit, config.model.architecture, None)
    if not callable(constructor):
        raise ValueError(
            f"model.architecture={config.model.architecture!r} is no constructor of "
            "keras_vit, such as ViTS16 or T2TViT14."
        )
    return constructor(**arguments)


def compile(model: keras.Model, config: configs.Config, todo: Plan) -> None:
    """Gives a model its optimizer, its loss and its metrics."""
    settings = config.optimization
    for layer in model.layers:
        if any(layer.name.startswith(prefix) for prefix in settings.frozen):
            layer.trainable = False

    def part(steps):
        return round(steps * todo.updates) if isinstance(steps, float) else steps

    schedule = WarmupSchedule(
        settings.learning_rate,
        todo.updates,
        decay=settings.schedule,
        warmup_steps=part(settings.warmup_steps),
        start=settings.warmup_start,
        final=settings.final_learning_rate,
        cooldown_steps=part(settings.cooldown_steps),
    )
    rates = {}
    if settings.backbone_multiplier != 1.0:
        # The first rule that fits counts.
        rates = {"^(pre_logits|.*classifier)/": 1.0, "": settings.backbone_multiplier}
    table = parameter_table(
        model,
        weight_decay=settings.weight_decay,
        layer_decay=None if settings.layer_decay == 1.0 else settings.layer_decay,
        rates=rates,
    )
    common: dict[str, Any] = {
        "parameters": table,
        "ema_decay": settings.ema,
        "global_clipnorm": settings.clip_norm,
    }
    if settings.accumulation_steps > 1:
        common["gradient_accumulation_steps"] = settings.accumulation_steps
    if settings.optimizer == "sgd":
        optimizer = SGD(schedule, momentum=settings.momentum, **common)
    elif settings.optimizer in ("adam", "adamw"):
        common |= {"beta_1": settings.beta_1, "beta_2": settings.beta_2}
        optimizer = AdamW(schedule, **common)
    else:
        raise ValueError(
            "optimization.optimizer must be 'adamw', 'adam' or 'sgd'; received "
            f"{settings.optimizer!r}."
        )
    if settings.loss == "softmax":
        loss = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=settings.label_smoothing
        )
    elif settings.loss == "sigmoid":
        loss = SigmoidLoss(label_smoothing=settings.label_smoothing)
    else:
        raise ValueError(
            "optimization.loss must be 'softmax' or 'sigmoid'; received "
            f"{settings.loss!r}."
        )
    classes = model.output_shape[-1]
    top5 = [keras.metrics.TopKCategoricalAccuracy(5, name="top5")]
    model.compile(
        optimizer,
        loss,
        weighted_metrics=[
            keras.metrics.CategoricalAccuracy(name="accuracy"),
            *(top5 if classes > 10 else []),
        ],
        steps_per_execution=todo.steps_per_execution,
        # XLA on TensorFlow's CPU too, where Keras leaves it out; torch has none.
        jit_compile=keras.backend.backend() != "torch",
    )


@keras.saving.register_keras_serializable(package="keras_vit_recipes")
class SigmoidLoss(keras.losses.Loss):
    """Binary cross-entropy of each class, summed: big_vision's and AugReg's."""

    def __init__(self, label_smoothing=0.0, **kwargs):
        super().__init__(**kwargs)
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        smoothing = self.label_smoothing
        y_true = y_true * (1.0 - smoothing) + 0.5 * smoothing
        losses = keras.ops.binary_crossentropy(y_true, y_pred, from_logits=True)
        return keras.ops.sum(losses, axis=-1)

    def get_config(self):
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


def one_hot(batches, classes):
    """Batches whose labels are distributions, as mixed ones are already."""
    tf = tensorflow()

    def convert(images, labels, *weights):
        if labels.shape.rank == 1:
            labels = tf.one_hot(labels, classes)
        return (images, labels, *weights)

    return batches.map(convert)


def evaluation_data(config, source, model):
    """Every image once, as `model.evaluate` takes them."""
    batches = evaluation_batches(
        source,
        model.preprocessor,
        config.batch_size,
        unreadable=config.data.unreadable,
    )
    batches = one_hot(batches, source.num_classes)
    if config.data.unreadable == "error":  # All images are there, then: their number.
        number = math.ceil(source.num_examples / config.batch_size)
        batches = batches.apply(tensorflow().data.experimental.assert_cardinality(number))
    return batches


def train(config: configs.Config, workdir: str, resume: bool | None = None) -> dict:
    """Runs a config, or the rest of it.

    Args:
        config: what to do.
        workdir: directory of the run, see `recipes.run_directory`.
        resume: see `RunDirectory`.

    Returns:
        The last row of the log, with `test_accuracy` and so on where there is a test
        set.
    """
    keras.utils.set_random_seed(config.seed)
    todo = plan(config)
    source = todo.sources["train"]
    model = build(config, source.num_classes)
    compile(model, config, todo)
    model.optimizer.build(model.trainable_variables)
    directory = RunDirectory(workdir, configs.to_dict(config), resume)
    keeper = Keeper(config, todo, directory, model)
    done = len(keeper.history)
    print(
        f"{config.about}\n{model.count_params():,} parameters; {source.num_examples:,} "
        f"images of {source.name}; {todo.steps:,} steps of {config.batch_size}, a "
        f"checkpoint every {todo.interval:,}; backend {keras.backend.backend()}; "
        f"everything goes to {directory.path}/",
        flush=True,
    )
    if done:
        print(f"Resumed at step {done * todo.interval:,}.", flush=True)
    if done * todo.interval < todo.steps:
        batches = training_batches(
            source,
            model.preprocessor,
            config.augmentation,
            config.batch_size,
            config.seed,
            first_step=done * todo.interval,
            unreadable=config.data.unreadable,
            cache=config.data.cache,
            shuffle_buffer=config.data.shuffle_buffer,
        )
        model.fit(
            one_hot(batches, source.num_classes),
            steps_per_epoch=todo.interval,
            initial_epoch=done,
            epochs=todo.steps // todo.interval,
            callbacks=[keeper],
            shuffle=False,  # The stream is shuffled.
            verbose=1 if sys.stdout.isatty() else 2,
        )
    if keeper.failure:
        sys.exit(keeper.failure)
    return finish(config, todo, directory, model, keeper)


def finish(config, todo, directory, model, keeper):
    """The model, its accuracy on the test set, the curves."""
    results = dict(keeper.history[-1])
    with keeper.averaged():
        if "test" in todo.sources:
            data = evaluation_data(config, todo.sources["test"], model)
            tested = model.evaluate(data, verbose=0, return_dict=True)
            results |= {f"test_{name}": value for name, value in tested.items()}
        directory.save_model(model, "last")
    write_text(directory.path / "results.json", json.dumps(results, indent=1))
    pictures.learning_curves(
        {config.model.architecture: keeper.curves()}, directory.path / "curves.png"
    )
    for name in ("test_accuracy", "val_accuracy"):
        if name in results:
            print(f"{name}: {results[name]:.2%}")
    print(f"models, log and curves: {directory.path}/")
    return results


class Keeper(keras.callbacks.Callback):
    """Evaluates, logs and writes a checkpoint at the end of each interval."""

    def __init__(self, config, todo, directory, model):
        super().__init__()
        self.config, self.todo, self.directory = config, todo, directory
        self.failure = None
        state = directory.load_state(self._variables(model)) or {}
        self.history = state.get("history", [])
        self.generators = state.get("generators", [])
        self.validation = evaluation_data(config, todo.sources["validation"], model)
        self.model_of_run = model
        # What guessing gives: of a softmax, and of as many sigmoids, each at one half.
        classes = model.output_shape[-1]
        sigmoid = config.optimization.loss == "sigmoid"
        self.largest_loss = EXPLODED * (
            classes * math.log(2) if sigmoid else math.log(classes)
        )

    @staticmethod
    def _variables(model):
        # With the states of dropout's random numbers, which are no weights.
        return [
            *model.trainable_variables,
            *model.non_trainable_variables,
            *model.optimizer.variables,
        ]

    def averaged(self):
        """The model has its averaged weights, if it has any, while this lasts."""
        if self.config.optimization.ema is None:
            return contextlib.nullcontext()
        return self.model_of_run.optimizer.averaged_weights(self.model_of_run)

    def curves(self):
        names = ("loss", "accuracy", "val_loss", "val_accuracy")
        return {name: [row[name] for row in self.history] for name in names}

    def on_train_batch_begin(self, batch, logs=None):
        # Before the first, when `fit` and torch's loader of data have drawn.
        set_generators(self.generators)
        self.generators = []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        loss = logs["loss"]
        if math.isfinite(loss) and loss < self.largest_loss:
            return
        self.model.stop_training = True
        step = len(self.history) * self.todo.interval + batch
        ids = batch_ids(
            self.todo.sources["train"],
            self.config.batch_size,
            self.config.seed,
            step,
            shuffle_buffer=self.config.data.shuffle_buffer,
        )
        last = self.directory.path / "state.npz"
        kept = "none"
        if last.exists():
            kept = f"{last}, of step {len(self.history) * self.todo.interval:,}"
        self.failure = (
            f"The loss is {loss:.4g} at step {step:,}: training stopped. Its batch: "
            f"{', '.join(ids)}. Last good checkpoint: {kept}. A"
            "  smaller optimization.learning_rate, a longer warmup_steps or a smaller "
            "clip_norm may help."
        )

    def on_epoch_end(self, epoch, logs=None):
        if self.failure:
            return
        seconds = time.monotonic() - self.start
        images = self.todo.interval * self.config.batch_size
        row = {
            "step": (epoch + 1) * self.todo.interval,
            **{name: float(value) for name, value in logs.items()},
            "learning_rate": float(self.model.optimizer.learning_rate),
            "seconds": round(seconds, 2),
            "images_per_second": round(images / seconds, 1),
        }
        best = max((old["val_accuracy"] for old in self.history), default=-1.0)
        with self.averaged():
            results = self.model.evaluate(self.validation, verbose=0, return_dict=True)
            row |= {f"val_{name}": float(value) for name, value in results.items()}
            self.history.append(row)
            if row["val_accuracy"] > best:
                self.directory.save_model(self.model, "best")
        self.directory.save_history(self.history)
        self.directory.save_state(
            self._variables(self.model),
            {"history": self.history, "generators": generators()},
        )
        best = max(best, row["val_accuracy"])
        left = (self.todo.steps - row["step"]) * seconds / self.todo.interval
        print(
            f"  validation {row['val_accuracy']:.2%} (best {best:.2%}); "
            f"{row['images_per_second']:,} images/s; {left / 60:.0f} min left",
            flush=True,
        )


# Under torch, Keras's dropout draws from torch's own generators, and not from the states
# that are variables of the model.
def generators() -> list[list[int]]:
    """The states of random numbers that are no variables: of the CPU, of each GPU."""
    if keras.backend.backend() != "torch":
        return []
    import torch

    states = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
    return [state.tolist() for state in states]


def set_generators(states: list[list[int]]) -> None:
    """Sets what `generators` gave."""
    if not states:
        return
    import torch

    first, *others = [torch.tensor(state, dtype=torch.uint8) for state in states]
    torch.set_rng_state(first)
    if others:
        torch.cuda.set_rng_state_all(others)
