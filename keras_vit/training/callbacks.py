"""Callback that evaluates, logs and saves at every checkpoint."""

import contextlib
import math
import shlex
import sys
import time
from typing import Any

import keras

from keras_vit import lora, processes
from keras_vit.data.fingerprint import check_unchanged, fingerprints
from keras_vit.data.pipeline import batch_ids
from keras_vit.training import cost, devices, preemption
from keras_vit.training.run_directory import RunDirectory

# Training stops when the mean loss since the last checkpoint exceeds this multiple of the
# loss of random guesses, after this many steps or at the next checkpoint: a single batch
# may have an outlier, or an image of a rare class with a large weight.
EXPLODED = 10.0
FEWEST_STEPS = 20


class Interruptible(keras.callbacks.Callback):
    """Callback that stops training and evaluation on a signal or an error of a step.

    Keras (3.15) waits for each step in a function that swallows every exception,
    KeyboardInterrupt too, and then passes logs that are not floats.
    """

    def on_train_batch_end(self, batch, logs=None):
        for value in (logs or {}).values():
            if not isinstance(value, float):
                keras.ops.convert_to_numpy(value)  # Raises the error of the step again.
                raise KeyboardInterrupt

    def on_test_batch_end(self, batch, logs=None):
        Interruptible.on_train_batch_end(self, batch, logs)
        if preemption.received():
            self.model.stop_evaluating = True


class RunCallback(Interruptible):
    """Callback that evaluates, logs and saves a checkpoint after each interval.

    Args:
        plan: the `runs.Plan` of the run.
        directory: the `RunDirectory` of the run.
        model: the compiled model to train.
        validation: the validation set, in a form that `model.evaluate` accepts.

    Attributes:
        trackers: callbacks that log the metrics of every checkpoint; see
            `keras_vit.training.trackers`.
    """

    # Keras's ModelCheckpoint, CSVLogger and BackupAndRestore would write at different
    # times, evaluate the raw weights instead of their EMA, and not save the states of
    # torch's random number generators. Keras's EarlyStopping would count from 0 again
    # when a run resumes; here, the count follows from the history.
    def __init__(self, plan, directory: RunDirectory, model, validation):
        super().__init__()
        self.trackers = keras.callbacks.CallbackList()
        self.plan, self.directory = plan, directory
        self.config, self.objective = plan.config, plan.objective
        self.failure: str | None = None
        self.data = fingerprints(plan.sources)
        # Compare the data first: with other classes, the variables differ too.
        progress = directory.progress or {}
        check_unchanged(progress.get("data", {}), self.data, plan.sources)
        state = directory.load_state(variables(model)) or {}
        self.history: list[dict[str, Any]] = state.get("history", [])
        # Steps, time, logs and metrics so far of an interval that SIGTERM interrupted.
        self.begun: dict[str, Any] = state.get("begun", {})
        self.step = self.last_saved = self._done() + self.begun.get("steps", 0)
        # The generator states of the last checkpoint, and those to restore before the
        # next batch.
        self.generators: list[list[int]] = state.get("generators", [])
        self.pending: list[list[int]] = []
        self.watch(model, validation)
        self.largest_loss = EXPLODED * self.objective.loss_of_guessing()

    def watch(self, model: keras.Model, validation: Any) -> None:
        """Use another model from here on: the same network at another image size.

        Args:
            model: the compiled model to train.
            validation: its validation set.
        """
        self.model_of_run, self.validation = model, validation
        self.utilization = cost.utilization(model, self.config.dtype)

    def _done(self):
        """Return the number of steps up to the last checkpoint that was evaluated."""
        return len(self.history) * self.plan.interval

    def averaged(self):
        """Return a context in which the model uses the EMA of its weights, if enabled."""
        if self.config.optimization.ema is None:
            return contextlib.nullcontext()
        optimizer = given_optimizer(self.model_of_run)
        return optimizer.averaged_weights(self.model_of_run)

    def save(self, model: keras.Model, name: str) -> None:
        """Write a model to `name.keras`, and its LoRA updates to `name.lora.safetensors`.

        Args:
            model: the model that is trained.
            name: name of the files.
        """
        with processes.gathered(model.variables):
            if processes.is_first():
                self._save(model, name)

    def _save(self, model, name):
        with devices.alone():
            saved = self.objective.saved(model)
            self.directory.save_model(saved, name)
            if self.config.lora.rank is not None:
                path = self.directory.path / f"{name}.lora.safetensors"
                # The saved head returns the values of a regression in their own units.
                lora.save(self.objective.kept(model), path, head_of=saved)

    def curves(self) -> dict[str, list[float]]:
        """Return the history of every metric that is also measured in validation.

        Returns:
            Dict from the name of a metric, such as `loss` or `val_loss`, to its values,
            one for each checkpoint.
        """
        metrics = [name for name in self.history[0] if f"val_{name}" in self.history[0]]
        return {
            name: [row[name] for row in self.history]
            for metric in metrics
            for name in (metric, f"val_{metric}")
        }

    def best_row(self) -> dict[str, Any]:
        """Return the row of the history that belongs to best.keras.

        Of equal rows it is the first one. A value that is not a number is the worst.
        """
        return self.objective.better(self.history, key=self.objective.watched_value)

    def save_if_best(self) -> None:
        """Write best.keras if the last checkpoint is the best one.

        It is written after the state. A run that is killed between them writes it when it
        resumes.
        """
        if self.history and not self.begun and self.best_row() is self.history[-1]:
            with self.averaged():
                self.save(self.model_of_run, "best")

    def stops_early(self) -> bool:
        """Return True if the run ends before its last step, for lack of progress."""
        patience, done = self.config.early_stopping, len(self.history)
        if patience is None or not 0 < done * self.plan.interval < self.plan.steps:
            return False
        last = self.history.index(self.best_row())
        return done - 1 - last >= patience

    def interruption(self) -> str:
        """Return the message to print when the run is interrupted."""
        resumed = "starts from the first step"
        if self.last_saved:
            resumed = f"resumes from the checkpoint of step {self.last_saved:,}"
        text = f"interrupted at step {self.step:,}; the same command {resumed}"
        if sys.argv[:1] == ["keras-vit"]:
            words = [word for word in sys.argv if word != "--no-resume"]
            text += f":\n  {shlex.join(words)}"
        return text

    def on_train_begin(self, logs=None):
        self.pending = self.generators
        self.trackers.set_model(self.model)
        self.trackers.on_train_begin()

    def on_train_end(self, logs=None):
        self.trackers.on_train_end()

    def on_train_batch_begin(self, batch, logs=None):
        # Restore the states as late as this, because `fit` and torch's DataLoader draw
        # random numbers before the first batch.
        set_generators(self.pending)
        self.pending = []

    def on_epoch_begin(self, epoch, logs=None):
        self.start = time.monotonic()
        if self.begun:
            self.start -= self.begun["seconds"]
            metrics = self.model.metrics_variables
            for variable, value in zip(metrics, self.begun["metrics"], strict=True):
                variable.assign(value)
        self.trackers.on_epoch_begin(epoch)

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        before = self.step
        steps = self.begun.get("steps", 0) + batch + 1
        self.step = self._done() + steps
        loss = logs["loss"]  # The mean of these steps.
        few = steps < min(FEWEST_STEPS, self.plan.interval)
        if math.isfinite(loss) and (few or loss < self.largest_loss):
            if preemption.stops():
                self.model.stop_training = True
            return
        self.model.stop_training = True
        self.failure = self._described_failure(loss, before)

    def _described_failure(self, loss, before):
        """Return the message about a loss after steps that were executed together."""
        ids = [
            name
            for step in range(before, self.step)
            for name in batch_ids(
                self.plan.sources["train"],
                self.config.batch_size,
                self.config.seed,
                step,
                shuffle_buffer=self.config.data.shuffle_buffer,
                sampling=self.config.data.sampling,
                repeats=self.config.data.repeats,
            )
        ]
        last, kept = self.directory.path / "state.npz", "none"
        if last.exists():
            kept = f"{last}, of step {self.last_saved:,}"
        steps = f"step {self.step:,}"
        if self.step - before > 1:
            steps = f"one of the steps {before + 1:,} to {self.step:,}"
        return (
            f"The loss is {loss:.4g} at {steps}: training stopped. Images of the "
            f"batch: {', '.join(ids)}. Last good checkpoint: {kept}. A "
            "smaller optimization.learning_rate, a longer warmup_steps or a smaller "
            "clip_norm may help."
        )

    def on_epoch_end(self, epoch, logs=None):
        if self.failure:
            return
        seconds = time.monotonic() - self.start
        # Torch's DataLoader draws a number for every evaluation, also for a part of one.
        self.generators = generators()
        trained = {name: float(value) for name, value in logs.items()}
        if self.step < (epoch + 1) * self.plan.interval:
            self._save_begun(trained, seconds)
        rate = self.plan.interval * self.config.batch_size / seconds
        row = {
            "step": (epoch + 1) * self.plan.interval,
            **trained,
            "learning_rate": float(self.model.optimizer.learning_rate),
            "seconds": round(seconds, 2),
            "images_per_second": round(rate, 1),
        }
        if self.utilization is not None:
            row["model_flops_utilization"] = round(self.utilization(rate), 4)
        with self.averaged():
            results = evaluated(self.model, self.validation)
            if not preemption.received():
                row |= {f"val_{name}": float(value) for name, value in results.items()}
                self.history.append(row)
        if preemption.received() and len(self.history) == epoch:
            # Only a part was evaluated. All of it is when the run resumes.
            self._save_begun(trained, seconds)
        self.directory.save_history(self.history)
        self.trackers.on_epoch_end(epoch, row)
        self.begun = {}
        self.generators = generators()
        self._save_state()
        self.save_if_best()
        left = (self.plan.steps - row["step"]) * seconds / self.plan.interval
        print(f"  {self._described(row)}; {left / 60:.0f} min left", flush=True)
        if text := self.objective.warning(row, self.plan.steps):
            print(f"  warning: {text}", flush=True)
        if preemption.received():
            preemption.stop()
        self.model.stop_training = self.stops_early()

    def _save_begun(self, logs, seconds):
        """Save the state in the middle of an interval, and stop the run."""
        metrics = map(keras.ops.convert_to_numpy, self.model.metrics_variables)
        self.begun = {
            "steps": self.step - self._done(),
            "seconds": seconds,
            "logs": logs,
            "metrics": [value.tolist() for value in metrics],
        }
        self._save_state()
        preemption.stop()

    def _save_state(self):
        self.directory.save_state(
            variables(self.model),
            {
                "history": self.history,
                "begun": self.begun,
                "generators": self.generators,
                "data": self.data,
            },
        )
        self.last_saved = self.step

    def evaluate_begun(self, epoch: int) -> None:
        """Evaluate and save an interval whose steps are complete.

        Args:
            epoch: number of the interval.
        """
        self.set_model(self.model_of_run)
        self.on_train_begin()
        self.on_train_batch_begin(0)
        self.on_epoch_begin(epoch)
        self.on_epoch_end(epoch, self.begun["logs"])
        self.on_train_end()

    def _described(self, row):
        shown = self.objective.shown or self.objective.watched
        metric = shown.removeprefix("val_").replace("_", " ")
        name, form = f"validation {metric}", ".4f"
        if shown == "val_accuracy":
            name, form = "validation", ".2%"
        text = f"{name} {row[shown]:{form}}"
        if shown == self.objective.watched:
            best = self.best_row()
            kept = f"best {best[shown]:{form}}, of step {best['step']:,}"
            text += f" ({'best so far' if row is best else kept})"
        text += f"; {row['images_per_second']:,} images/s"
        if self.utilization is not None:
            text += f", {row['model_flops_utilization']:.1%} of the device's peak"
        return text


def evaluated(model: keras.Model, data: Any) -> dict[str, float]:
    """Return what `model.evaluate` returns, as a dict; Ctrl-C stops it.

    Args:
        model: a compiled model.
        data: batches as `keras_vit.data.evaluation_batches` returns them.
    """
    return model.evaluate(data, verbose=0, return_dict=True, callbacks=[Interruptible()])


def given_optimizer(model: keras.Model) -> Any:
    """Return the optimizer that was passed to `compile`.

    Under mixed_float16, Keras wraps it in an optimizer that scales the loss.

    Args:
        model: a compiled model.
    """
    return getattr(model.optimizer, "inner_optimizer", model.optimizer)


def variables(model: keras.Model) -> list:
    """Return all variables that training changes, including the seeds of dropout.

    Those of a teacher do not change.

    Args:
        model: a compiled model.
    """
    fixed = {id(variable) for variable in getattr(model, "teacher_variables", ())}
    return [
        *model.trainable_variables,
        *(v for v in model.non_trainable_variables if id(v) not in fixed),
        *model.optimizer.variables,
    ]


# Under torch, Keras's dropout draws from torch's own generators instead of the seeds that
# are variables of the model.
def generators() -> list[list[int]]:
    """Return the states of torch's random number generators, of the CPU and each GPU.

    The list is empty under other backends.
    """
    if keras.backend.backend() != "torch":
        return []
    import torch

    states = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
    return [state.tolist() for state in states]


def set_generators(states: list[list[int]]) -> None:
    """Restore the states of torch's random number generators.

    Args:
        states: the return value of `generators`; an empty list is a no-op.
    """
    if not states:
        return
    import torch

    first, *others = [torch.tensor(state, dtype=torch.uint8) for state in states]
    torch.set_rng_state(first)
    if others:
        # The run may have begun on a machine with more GPUs; Keras trains on the first.
        torch.cuda.set_rng_state_all(others[: torch.cuda.device_count()])
