"""What is computed in float32 whatever the policy."""

import keras
from keras import ops


def wide(x):
    """`x` in float32, or in float64 where it is that.

    Sums of many terms, exponentials and cubes leave the range or the precision of half
    precision.
    """
    return ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
