"""Dry run: a report of the cost of a run, measured over a few steps."""

import json
import statistics
import time
from collections.abc import Mapping

import keras
import numpy as np

from keras_vit.data.source import Source
from keras_vit.training import compilation, cost, devices, runs
from keras_vit.training import config as configs
from keras_vit.training.callbacks import given_optimizer
from keras_vit.training.sharding import layout_table, sizes

MEASURED_STEPS = 5


def report(config: configs.Config, sources: Mapping[str, Source] | None = None) -> None:
    """Print the config, variables, operations, memory, steps and time of a run.

    Nothing is written to disk.

    Args:
        config: config of the run.
        sources: dict of the data sets, if they are open already.
    """
    print(json.dumps(configs.to_dict(config), indent=1))
    keras.utils.set_random_seed(config.seed)
    plan = runs.make_plan(config, sources)
    model = plan.objective.build()
    runs.check_phases(plan, model)
    compilation.compile(model, plan)
    print(f"\n{given_optimizer(model).parameters}\n")
    frozen = [path for path, w in model.weights_by_path().items() if not w.trainable]
    if frozen:
        print(f"Not trained: {', '.join(frozen)}\n")
    if devices.mesh_in_use() is not None:
        print(f"{layout_table(model.variables)}\n")
    # The last are the gradients, which are as large as the weights.
    state = *model.variables, *model.optimizer.variables, *model.trainable_variables
    total, on_each = map(sum, zip(*map(sizes, state), strict=True))
    operations = cost.forward_operations(model)
    rows = [
        ("parameters", f"{model.count_params():,}"),
        ("trained", f"{sum(int(np.prod(v.shape)) for v in model.trainable_variables):,}"),
        ("forward operations per image", f"{operations / 1e9:.3g} billion"),
        ("images", f"{plan.sources['train'].num_examples:,}"),
        ("steps", f"{plan.steps:,} of {config.batch_size} images"),
        ("updates", f"{plan.updates:,}"),
        ("checkpoints", f"every {plan.interval:,} steps"),
        ("weights, optimizer, gradients", f"{total / 1e6:,.0f} MB"),
        ("of these on each device", f"{on_each / 1e6:,.0f} MB"),
    ]
    _print(rows)
    seconds = step_seconds(plan, model, MEASURED_STEPS)
    rate = config.batch_size / seconds
    rows = [
        ("step", f"{seconds:.3g} s, {rate:,.1f} images/s, on {cost.device_name()}"),
        ("all steps", f"{seconds * plan.steps / 3600:.2f} h, without evaluation"),
        ("peak memory of this process", f"{cost.peak_memory() / 1e6:,.0f} MB"),
    ]
    part = cost.utilization(model, config.dtype)
    if part is not None:
        rows.append(("of the device's peak", f"{part(rate):.1%}"))
    _print(rows)


def _print(rows):
    for name, value in rows:
        print(f"{name:30} {value}", flush=True)


def step_seconds(plan: runs.Plan, model: keras.Model, calls: int) -> float:
    """Return the median seconds of a few steps, without the first, which compiles.

    The steps train the model.

    Args:
        plan: the plan of the run.
        model: the compiled model.
        calls: number of calls of the train function to measure.
    """
    clock = _Clock()
    model.fit(
        runs.training_data(plan, model),
        steps_per_epoch=(calls + 1) * plan.steps_per_execution,
        callbacks=[clock],
        shuffle=False,
        verbose=0,
    )
    return statistics.median(np.diff(clock.times)) / plan.steps_per_execution


class _Clock(keras.callbacks.Callback):
    """Callback that records the time at the end of each step."""

    def __init__(self):
        super().__init__()
        self.times = []

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])
        self.times.append(time.perf_counter())
