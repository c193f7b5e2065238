"""A layer's call that is computed again in the backward pass, to save memory."""

import keras
from keras import ops


def recompute(layer, function, x):
    """`function(x)`, of which the backward pass keeps `x` alone.

    Everything between is computed a second time when its gradient is wanted.

    Args:
        layer: the layer whose variables `function` uses.
        function: of a tensor and of the variables and seeds of `layer`.
        x: tensor.

    Returns:
        What `function` returns, one tensor.

    `keras.remat` does this under TensorFlow and torch. Under JAX it is `jax.checkpoint`,
    which asks XLA not to merge the second computation with the first; on CPU XLA does
    merge them, and nothing is saved. So JAX has its own form here, in which the second
    computation cannot start before the gradient has arrived.
    """
    random = [x for x in layer._flatten_layers() if _seed_generator(x) is not None]
    # Drawn here, so that both computations drop the same entries.
    seeds = [_seed_generator(x).next() for x in random]

    def same_twice(x):
        generators = [_seed_generator(x) for x in random]
        for dropout, seed in zip(random, seeds, strict=True):
            dropout.__dict__["seed_generator"] = _DrawnSeed(seed)
        try:
            return function(x)
        finally:
            for dropout, generator in zip(random, generators, strict=True):
                dropout.__dict__["seed_generator"] = generator

    if keras.backend.backend() == "jax":
        return _recompute_jax(layer, same_twice, x)
    return keras.remat(same_twice)(x)


def _seed_generator(layer):
    return layer.__dict__.get("seed_generator")


class _DrawnSeed(keras.random.SeedGenerator):
    """Stands for a generator whose seed has been drawn: seed, seed + 1, ..."""

    def __init__(self, seed):
        # Without the parent's constructor, which would make a variable.
        self._seed = self._initial_seed = seed

    def next(self, ordered=True):
        seed = self._seed
        self._seed = seed + ops.cast([0, 1], seed.dtype)
        return seed


def _recompute_jax(layer, function, x):
    import jax

    variables = [*layer.trainable_variables, *layer.non_trainable_variables]

    def pure(x, values):
        with keras.StatelessScope(
            state_mapping=list(zip(variables, values, strict=True))
        ):
            return function(x)

    @jax.custom_vjp
    def apply(x, values):
        return pure(x, values)

    def forward(x, values):
        return pure(x, values), (x, values)

    def backward(kept, upstream):
        x, values = kept
        # 0, but XLA cannot know that before the gradient is there.
        zero = ops.minimum(ops.abs(upstream[(0,) * upstream.ndim]), 0)
        _, gradient = jax.vjp(pure, x + ops.cast(zero, x.dtype), values)
        return gradient(upstream)

    apply.defvjp(forward, backward)
    return apply(x, [variable.value for variable in variables])
