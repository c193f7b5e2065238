"""Recomputation in the backward pass, to save memory."""

import keras
from keras import ops

from keras_vit.kernels.switch import in_use


def recompute(layer, function, x):
    """Return `function(x)`, and store only `x` for the backward pass.

    The backward pass recomputes the intermediate tensors. With
    `keras_vit.kernels.use("plain")` they are stored as usual.

    Under TensorFlow and torch this is `keras.remat`. Under JAX, `keras.remat` is
    `jax.checkpoint`, which relies on barriers that XLA ignores on CPUs: it merges both
    computations and saves no memory. The variant for JAX here starts the recomputation
    only after the upstream gradient has arrived.

    Args:
        layer: the layer whose variables and seed generators `function` uses.
        function: function of one tensor that returns one tensor.
        x: tensor.
    """
    if in_use() == "plain":
        return function(x)
    random = [x for x in layer._flatten_layers() if _seed_generator(x) is not None]
    # The seeds are drawn once, so that both computations drop the same entries.
    generators = [_seed_generator(x) for x in random]
    seeds = [generator.next() for generator in generators]
    drawn = [1 for _ in seeds]

    def with_drawn_seeds(x):
        draws = [_DrawnSeed(seed) for seed in seeds]
        for dropout, draw in zip(random, draws, strict=True):
            dropout.__dict__["seed_generator"] = draw
        try:
            return function(x)
        finally:
            drawn[:] = [draw.number for draw in draws]
            for dropout, generator in zip(random, generators, strict=True):
                dropout.__dict__["seed_generator"] = generator

    if keras.backend.backend() == "jax":
        outputs = _recompute_jax(layer, with_drawn_seeds, x)
    else:
        outputs = keras.remat(with_drawn_seeds)(x)
    # A layer may have drawn several times: the next step must not repeat those seeds.
    for generator, number in zip(generators, drawn, strict=True):
        for _ in range(number - 1):
            generator.next()
    return outputs


def memory_is_slow():
    """Return True if computing activations again is faster than keeping them.

    JAX allocates the memory of a training step again in every step. On a CPU, writing the
    activations to new memory takes longer than computing them twice.
    """
    if keras.backend.backend() != "jax":
        return False
    import jax

    return jax.default_backend() == "cpu"


def _seed_generator(layer):
    return layer.__dict__.get("seed_generator")


class _DrawnSeed(keras.random.SeedGenerator):
    """Generator that starts from a seed that was drawn before: seed, seed + 1, ..."""

    def __init__(self, seed):
        # The parent's constructor is not called: it would create a variable.
        self._seed = self._initial_seed = seed
        self.number = 0

    def next(self, ordered=True):
        self.number += 1
        seed = self._seed
        self._seed = seed + ops.cast([0, 1], seed.dtype)
        return seed


def _recompute_jax(layer, function, x):
    import jax

    variables = [*layer.trainable_variables, *layer.non_trainable_variables]

    def pure(x, values):
        state_mapping = list(zip(variables, values, strict=True))
        with keras.StatelessScope(state_mapping=state_mapping):
            return function(x)

    @jax.custom_vjp
    def apply(x, values):
        return pure(x, values)

    def forward(x, values):
        return pure(x, values), (x, values)

    def backward(stored, upstream):
        x, values = stored
        # Always 0, which XLA cannot know before the gradient has arrived.
        zero = ops.minimum(ops.abs(upstream[(0,) * upstream.ndim]), 0)
        _, gradient = jax.vjp(pure, x + ops.cast(zero, x.dtype), values)
        return gradient(upstream)

    apply.defvjp(forward, backward)
    return apply(x, [variable.value for variable in variables])
