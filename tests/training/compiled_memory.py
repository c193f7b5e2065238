"""Memory of compiled training steps beside that of the formula.

python -m tests.training.compiled_memory CASES prints a line of JSON for each case. CASES
is a list in JSON of the name of a variant, a batch size and a dict of its arguments.
"""

import dataclasses
import json
import sys

import jax
import keras
import numpy as np

import keras_vit
from keras_vit.cli.command_line import UNSPECIFIED
from keras_vit.training import AdamW, hardware
from keras_vit.training import config as configs
from keras_vit.training.plan import mesh_plans

CPU = dataclasses.replace(
    hardware.load("h100x8"), platform="cpu", hosts=1, devices_per_host=1
)


def compiled(variant, batch, arguments, ema=None):
    """Return the peak of a compiled step with clipped gradients, and of its arguments."""
    keras.utils.clear_session()
    model = getattr(keras_vit, variant)(classifier_activation=None, **arguments)
    optimizer = AdamW(1e-3, ema_decay=ema, global_clipnorm=1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss)
    model.optimizer.build(model.trainable_variables)
    shape = model.input_shape[1:]
    model._symbolic_build(data_batch=(np.zeros((1, *shape)), np.zeros(1, "int32")))
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple(
        [jax.ShapeDtypeStruct(v.value.shape, v.value.dtype) for v in group]
        for group in groups
    )
    images = jax.ShapeDtypeStruct((batch, *shape), "float32")
    labels = jax.ShapeDtypeStruct((batch,), "int32")
    step = jax.jit(model.train_step, donate_argnums=0)  # As Keras compiles it.
    found = step.lower(state, (images, labels)).compile().memory_analysis()
    new = found.output_size_in_bytes - found.alias_size_in_bytes
    arguments = found.argument_size_in_bytes
    return arguments + found.temp_size_in_bytes + new, arguments


def formula(variant, batch, arguments, ema=None):
    """Return the peak of the plan, and the bytes of the arguments of the step."""
    settings = [f"model.arguments.{key}={value}" for key, value in arguments.items()]
    settings += [f"model.architecture={variant}", f"optimization.ema={ema}"]
    config = configs.override(UNSPECIFIED, [*settings, f"batch_size={batch}"])
    (row,) = mesh_plans(config, CPU).rows
    memory = row.memory
    return memory.peak, memory.weights + memory.optimizer + memory.images


def main(text):
    """Print both memories of each case."""
    for variant, batch, arguments in json.loads(text):
        case = variant, batch, arguments
        row = {"case": case, "compiled": compiled(*case)[0], "formula": formula(*case)[0]}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
