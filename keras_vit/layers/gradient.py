"""Functions with a gradient written by hand, and gradients in one pass over memory."""

import functools

import keras
from keras import ops


def hand_written_gradient(plain):
    """Decorates a function that also gives its gradient.

    The decorated function takes tensors and returns `(output, gradient)`, where
    `gradient(upstream)` returns a tuple with a gradient for each tensor. What a caller
    gets takes the tensors and returns the output.

    Automatic gradients keep every intermediate tensor for the backward pass, and read
    and write memory once for each operation. A gradient written by hand keeps what it
    needs. First derivatives and derivatives of those in reverse mode are exact; forward
    mode (`jax.jvp`) is what it does not have.

    Args:
        plain: function of the same tensors with the same output, written with
            operations whose gradients Keras or torch has. It is what torch runs, whose
            own kernels have gradients of this kind; and what tests compare with.

    Example:

    >>> import keras
    >>> from keras_vit.layers.gradient import hand_written_gradient
    >>> @hand_written_gradient(plain=keras.ops.square)
    ... def square(x):
    ...     return x * x, lambda upstream: (2 * x * upstream,)
    >>> float(square(keras.ops.convert_to_tensor(3.0)))
    9.0
    """

    def decorate(function):
        if keras.backend.backend() == "torch":
            wrapped = plain
        else:
            wrapped = ops.custom_gradient(function)

        @functools.wraps(function)
        def call(*tensors):
            return wrapped(*map(ops.convert_to_tensor, tensors))

        call.plain = plain  # type: ignore[attr-defined]
        return call

    return decorate


def in_one_pass(function):
    """Compiles an elementwise function where nothing else would fuse its operations.

    TensorFlow runs a graph one operation at a time on CPU, each with its own pass over
    memory; XLA makes one of them all. JAX compiles everything anyway.

    For gradients only: no part of a model that is exported may need XLA.

    Args:
        function: of tensors, without variables or random numbers.

    Returns:
        `function`, or the same compiled by XLA.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf
    from tensorflow.python.eager.context import context

    compiled = tf.function(function, jit_compile=True)

    @functools.wraps(function)
    def call(*tensors):
        # XLA cannot compile what tf.debugging.enable_check_numerics and
        # enable_dump_debug_info add to every operation.
        return (function if context().op_callbacks else compiled)(*tensors)

    return call
