"""Time of a training step on meshes of virtual devices, which share the cores of one CPU.

    python -m recipes.virtual_devices [--variant ViTS16] [--batch 8] [--rounds 7]

Eight virtual devices cannot compute faster than one: the table shows what distribution
costs on top of the computation, in copies, collective operations and smaller matrix
products. The meshes take turns in one process; the ratios are medians over the rounds.
"""

import argparse
import os
import statistics
import time

DEVICES = 8
os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={DEVICES}"
)

import keras  # noqa: E402
import numpy as np  # noqa: E402

import keras_vit  # noqa: E402
from keras_vit.training import AdamW, distributed  # noqa: E402

MESHES: dict[str, tuple[dict[str, int] | None, bool]] = {
    "one device": (None, False),
    "data=2": ({"data": 2}, False),
    "data=4": ({"data": 4}, False),
    "data=8": ({"data": 8}, False),
    "data=8, fully sharded": ({"data": 8}, True),
    "data=4, model=2": ({"data": 4, "model": 2}, False),
    "data=2, model=2": ({"data": 2, "model": 2}, False),
}


def main():
    """Parse the command line, measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--variant", default="ViTS16", help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=7, help="default: %(default)s")
    options = parser.parse_args()
    if options.batch % DEVICES:
        parser.error(f"--batch must be a multiple of {DEVICES}; received {options.batch}")
    generator = np.random.default_rng(0)
    images = generator.standard_normal((options.batch, 224, 224, 3), "float32")
    labels = generator.integers(0, 1000, options.batch)
    models = {name: model_on(options.variant, *mesh) for name, mesh in MESHES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in MESHES}
    for number in range(options.rounds + 2):
        for name, (mesh, fully_sharded) in MESHES.items():
            start = time.perf_counter()
            with distributed(mesh, fully_sharded):
                models[name].train_on_batch(images, labels)
            if number > 1:  # The first steps compile.
                seconds[name].append(time.perf_counter() - start)
    first = seconds["one device"]
    for name, values in seconds.items():
        ratios = [value / one for value, one in zip(values, first, strict=True)]
        print(
            f"{name:24} {statistics.median(values):6.2f} s  "
            f"x{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def model_on(variant, mesh, fully_sharded):
    """Return a compiled model that is distributed over a mesh."""
    keras.utils.set_random_seed(0)
    with distributed(mesh, fully_sharded):
        model = getattr(keras_vit, variant)(classifier_activation=None)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(AdamW(1e-4), loss, jit_compile=True)
        model.optimizer.build(model.trainable_variables)
    return model


if __name__ == "__main__":
    main()
