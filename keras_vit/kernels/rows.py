"""Dense layers as matrix products over two axes."""

import functools

from keras import ops

from keras_vit.kernels.switch import in_use


def over_rows(call):
    """Run the `call` of a layer that treats all tokens alike over `(rows, d)`.

    The inputs `(b, ..., d)` are reshaped to `(rows, d)` and the outputs back. The
    gradients of a product over two axes are again such products. With three axes XLA
    transposes a copy of the upstream gradient, and fuses into that copy the sum of the
    residual branches of all later blocks, once for each block: see docs/performance.md.

    Args:
        call: method of a layer, from `inputs` and `training` to outputs.

    Returns:
        The method with the same arguments and outputs.
    """

    @functools.wraps(call)
    def call_over_rows(self, inputs, training=None):
        if len(inputs.shape) == 2 or in_use() == "plain":
            return call(self, inputs, training=training)
        between = ops.shape(inputs)[1:-1]
        rows = ops.reshape(inputs, (-1, inputs.shape[-1]))
        outputs = call(self, rows, training=training)
        return ops.reshape(outputs, (-1, *between, outputs.shape[-1]))

    return call_over_rows
