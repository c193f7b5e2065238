"""Fast and memory-saving forms of the formulas in `keras_vit.layers`.

The layers are written as plain formulas. This package holds what only speed or memory
needs: hand-written gradients of LayerNorm, GELU, attention and soft split, attention by
blocks of queries, dense layers over two axes, recomputation in the backward pass, and
initial values drawn by NumPy. Plain and fast forms agree except for rounding, gradients
included; initial values have the same distributions.

`use("plain")` turns all of them off, for example to debug a model or to compare it with a
paper. The default is `"fast"`; the environment variable `KERAS_VIT_KERNELS` sets another.
"""

from keras_vit.kernels.switch import in_use, use

__all__ = ["in_use", "use"]
