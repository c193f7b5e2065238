"""A layer's call that is computed again in the backward pass, to save memory."""

import keras
from keras import ops


def recompute(layer, function, x):
    """`function(x)`, of which the backward pass keeps `x` alone.

    Everything between is computed a second time when its gradient is wanted.

    Args:
        layer: the layer whose variables `function` uses.
        function: of a tensor and of `layer`'s variables; draws no random numbers.
        x: tensor.

    Returns:
        What `function` returns, one tensor.

    `keras.remat` does this under TensorFlow and torch. Under JAX it is `jax.checkpoint`,
    which asks XLA not to merge the second computation with the first; on CPU XLA does
    merge them, and nothing is saved. So JAX has its own form here, in which the second
    computation cannot start before the gradient has arrived.
    """
    if keras.backend.backend() == "jax":
        return _recompute_jax(layer, function, x)
    return keras.remat(function)(x)


def _recompute_jax(layer, function, x):
    import jax

    variables = [*layer.trainable_variables, *layer.non_trainable_variables]

    def pure(x, values):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
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
