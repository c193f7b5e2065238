"""Print what devices exchange in a training step, from its compiled program, as JSON.

python -m tests.training.on_compiled_steps MESH, where MESH is a dict in JSON.
XLA_FLAGS=--xla_force_host_platform_device_count=8 makes the devices.
"""

import json
import re
import sys

import jax
import keras
import numpy as np

import keras_vit
from keras_vit.training import AdamW, distributed
from keras_vit.training.parameters import parameter_table

BATCH, LAYERS, WIDTH = 16, 3, 64
_EXCHANGE = re.compile(
    r"= (\S+|\(.*?\)) (all-gather|all-reduce|reduce-scatter)(?:-start)?\("
)
_COMPILED = "/jax/core/compile/backend_compile_duration"


def built():
    """Return a compiled ViT with dropout, averaged weights and 3 blocks of width 64."""
    model = keras_vit.ViT(
        (32, 32, 3),
        patch_size=8,
        hidden_dim=WIDTH,
        num_layers=LAYERS,
        num_heads=4,
        mlp_dim=4 * WIDTH,
        classes=16,
        dropout_rate=0.1,
        classifier_activation=None,
    )
    optimizer = AdamW(1e-3, parameter_table(model, weight_decay=0.05), ema_decay=0.9)
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True))
    model.optimizer.build(model.trainable_variables)
    return model


def text_of_step(model, images, labels):
    """Return the compiled program of a training step as Keras compiles it."""
    state = model._get_jax_state(
        trainable_variables=True,
        non_trainable_variables=True,
        optimizer_variables=True,
        metrics_variables=True,
    )
    layout = keras.distribution.distribution().get_data_layout
    batch = [
        jax.device_put(array, layout(array.shape).backend_layout)
        for array in (images, labels)
    ]
    step = jax.jit(
        model.train_step,
        donate_argnums=0,
        out_shardings=(None, model._get_state_sharding_spec()),
    )
    return step.lower(state, (*batch, None)).compile().as_text()


def exchanges(text):
    """Return the shapes that each kind of exchange results in, dict of lists."""
    found = {}
    for types, kind in _EXCHANGE.findall(text):
        shapes = re.findall(r"[a-z]\w*\[([\d,]*)\]", types)
        sizes = [[int(n) for n in shape.split(",") if n] for shape in shapes]
        found.setdefault(kind, []).extend(sizes)
    return found


def main(text):
    """Print the exchanges of a step, the weights, and what later steps compile."""
    mesh = json.loads(text)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event == _COMPILED)
    )
    with distributed(mesh, mesh.pop("fully_sharded", False)):
        model = built()
        images = np.zeros((BATCH, 32, 32, 3), "float32")
        labels = np.eye(16, dtype="float32")
        model.train_on_batch(images, labels)
        model.train_on_batch(images, labels)
        before = sum(compiled)
        for _ in range(3):
            model.train_on_batch(images, labels)
        later = sum(compiled) - before
        program = text_of_step(model, images, labels)
        weights = [list(weight.shape) for weight in model.trainable_variables]
    print(
        json.dumps(
            {"exchanges": exchanges(program), "weights": weights, "compiled": later}
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
