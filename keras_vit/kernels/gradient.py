"""Hand-written gradients, and elementwise functions compiled into one kernel."""

import functools

import keras
from keras import ops


def hand_written_gradient(torch):
    """Decorate a function that returns its output together with its gradient function.

    The function takes tensors as positional and options as keyword arguments. It returns
    `(output, gradient)`, where `gradient(upstream)` returns a tuple with the gradient
    with respect to each tensor. The decorated function takes the same arguments and
    returns the output alone.

    Automatic differentiation stores every intermediate tensor for the backward pass and
    makes one pass over memory for each operation. A hand-written gradient stores only
    what it needs. First derivatives and reverse-mode derivatives of them are exact;
    forward mode (`jax.jvp`) is not supported.

    Args:
        torch: function of the same arguments that runs under torch, whose built-in
            operations already have such gradients.

    Returns:
        A decorator.

    Example:

    >>> import keras
    >>> from keras_vit.kernels.gradient import hand_written_gradient
    >>> @hand_written_gradient(torch=keras.ops.square)
    ... def square(x):
    ...     return x * x, lambda upstream: (2 * x * upstream,)
    >>> float(square(keras.ops.convert_to_tensor(3.0)))
    9.0
    """

    def decorate(function):
        @functools.cache
        def differentiable(**options):
            return ops.custom_gradient(lambda *tensors: function(*tensors, **options))

        @functools.wraps(function)
        def call(*tensors, **options):
            arguments = map(ops.convert_to_tensor, tensors)
            if keras.backend.backend() == "torch":
                return torch(*arguments, **options)
            return differentiable(**options)(*arguments)

        return call

    return decorate


def fuse_elementwise(function):
    """Compile an elementwise function where nothing else would fuse its operations.

    TensorFlow runs a graph on the CPU one operation at a time, each with its own pass
    over memory; XLA fuses the operations into one pass. JAX compiles everything anyway.

    Use it for gradients only: exported models must not need XLA.

    Args:
        function: function of tensors, without variables or random numbers.

    Returns:
        `function`, or its compiled form under TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf
    from tensorflow.python.eager.context import context

    compiled = tf.function(function, jit_compile=True, autograph=False)

    @functools.wraps(function)
    def call(*tensors):
        # XLA cannot compile the operations that tf.debugging.enable_check_numerics and
        # enable_dump_debug_info insert after every operation.
        return (function if context().op_callbacks else compiled)(*tensors)

    return call
