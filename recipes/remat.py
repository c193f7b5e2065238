"""Memory and time of a training step of S/16 for every kind of `remat`, on JAX.

    KERAS_BACKEND=jax python -m recipes.remat --batch 16

The memory is what XLA allocates for the intermediate tensors of a step, gradients
included, without weights and images. The time is processor time, the median of steps in
alternation; `--repetitions 0` measures the memory only.
"""

import argparse
import statistics
import time

import keras
import numpy as np

import keras_vit

KINDS = (False, "mlp", "attention", True)


def compiled(remat, side, batch):
    """Return a compiled step of SGD and its first two arguments.

    Args:
        remat: the argument of the model.
        side: side of the images in pixels.
        batch: number of images.
    """
    import jax

    keras.utils.set_random_seed(0)
    model = keras_vit.ViTS16(
        input_shape=(side, side, 3),
        classes=1000,
        classifier_activation=None,
        remat=remat,
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def objective(weights, others, images, labels):
        logits, _ = model.stateless_call(weights, others, images, training=True)
        return loss(labels, logits)

    def step(weights, others, images, labels):
        gradients = jax.grad(objective)(weights, others, images, labels)
        return [w - 1e-3 * g for w, g in zip(weights, gradients, strict=True)]

    weights = [variable.value for variable in model.trainable_variables]
    others = [variable.value for variable in model.non_trainable_variables]
    images = jax.ShapeDtypeStruct((batch, side, side, 3), "float32")
    labels = jax.ShapeDtypeStruct((batch,), "int32")
    lowered = jax.jit(step).lower(weights, others, images, labels)
    return lowered.compile(), (weights, others)


def main():
    """Parse the command line, measure and print."""
    import jax

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=224, help="side of the images")
    parser.add_argument("--batch", type=int, default=16, help="number of images")
    parser.add_argument("--repetitions", type=int, default=5, help="number of steps")
    options = parser.parse_args()
    steps = {kind: compiled(kind, options.side, options.batch) for kind in KINDS}
    images = np.random.default_rng(0).normal(
        size=(options.batch, options.side, options.side, 3)
    )
    batch = images.astype("float32"), np.arange(options.batch, dtype="int32")
    seconds: dict = {kind: [] for kind in KINDS}
    for repetition in range(options.repetitions + 1 if options.repetitions else 0):
        for kind, (step, state) in steps.items():
            start = time.process_time()
            jax.block_until_ready(step(*state, *batch))
            if repetition:  # The first one fills the caches.
                seconds[kind].append(time.process_time() - start)
    for kind, (step, _) in steps.items():
        memory = step.memory_analysis().temp_size_in_bytes / 1e6
        times = seconds[kind]
        text = f"; {statistics.median(times):.2f} s" if times else ""
        print(f"remat={kind}: {memory:,.0f} MB{text}", flush=True)


if __name__ == "__main__":
    main()
