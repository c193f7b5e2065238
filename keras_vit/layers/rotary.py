"""Rotary position embeddings, which rotate queries and keys by angles.

Pairs of entries of a query or key are rotated by angles proportional to the place of its
token, so that their product depends on the offset between the two tokens.
"""

import math

import keras
import numpy as np
from keras import ops

from keras_vit.choices import check_choice
from keras_vit.kernels.precision import to_float32
from keras_vit.layers.positions import AttentionPositions

LAYOUTS = ("half", "interleaved")
COORDINATES = ("centered", "index")
AXES = ("yx", "xy")


def rotate(x, cos, sin, layout):
    """Rotate pairs of entries by angles, in float32.

    Args:
        x: `(b, n, k, head_dim)`, one query or key for each token and head.
        cos: `(n, 1 or k, head_dim / 2)`, cosines of the angles, float32.
        sin: sines of the angles, likewise.
        layout: `"half"` if entry `i` is paired with entry `i + head_dim / 2`, or
            `"interleaved"` if entry `2 i` is paired with entry `2 i + 1`.

    Returns:
        Tensor with the shape and dtype of `x`.

    Reference: RoFormer (arXiv:2104.09864) equation 34.
    """
    _, length, heads, width = x.shape
    if layout == "half":
        first, second = ops.split(to_float32(x), 2, axis=-1)
    else:
        pairs = ops.reshape(to_float32(x), (-1, length, heads, width // 2, 2))
        first, second = pairs[..., 0], pairs[..., 1]
    rotated = [first * cos - second * sin, second * cos + first * sin]
    if layout == "half":
        outputs = ops.concatenate(rotated, axis=-1)
    else:
        outputs = ops.reshape(ops.stack(rotated, axis=-1), (-1, length, heads, width))
    return ops.cast(outputs, x.dtype)


@keras.saving.register_keras_serializable(package="keras_vit")
class RotaryPositions(AttentionPositions):
    """Rotary positions with fixed frequencies along the two axes of the grid.

    Half of the angles are proportional to the row of a patch and half to its column,
    with `head_dim / 4` frequencies from 1 down to almost `1 / temperature`. Prefix tokens
    are not rotated. The defaults are those of DINOv3.

    Its place is in `SelfAttention`; `ViT(positions="rope_axial")` is short for
    `ViT(positions=RotaryPositions())`, in which the model fills in the grid.

    Input and output: queries or keys `(b, n, k, head_dim)`, where
    `n = num_prefix_tokens + gh * gw` and `head_dim` is divisible by 4.

    Args:
        grid_shape: `(gh, gw)`, rows and columns of patches.
        num_prefix_tokens: int, number of tokens before the grid.
        temperature: float, ratio of the first to the last frequency, were there one more.
        coordinates: `"centered"` for centers of patches scaled to the range from -1 to 1,
            in turns (2 pi) at the first frequency; `"index"` for rows and columns counted
            from `offset`, in radians.
        offset: float, added to the rows and columns.
        reference_grid_shape: None, or with `"index"` the `(rows, columns)` of the grid
            that the network was pretrained on, to which coordinates are scaled.
        axes: order of the angles, `"yx"` (rows first) or `"xy"`.
        layout: pairs of entries that are rotated, `"half"` or `"interleaved"`; see
            `keras_vit.layers.rotary.rotate`.

    Example:

    >>> import keras, keras_vit
    >>> positions = keras_vit.layers.RotaryPositions((2, 3), num_prefix_tokens=1)
    >>> tuple(positions(keras.random.uniform((2, 7, 4, 16))).shape)
    (2, 7, 4, 16)

    Reference: DINOv3 (arXiv:2508.10104) section 3.2; EVA-02 (arXiv:2303.11331) with
    `coordinates="index"`; RoPE-ViT (arXiv:2403.13298) section 3.1.
    """

    name_in_attention = "rotary_positions"
    width_divisor = 4

    def __init__(
        self,
        grid_shape: tuple[int, int] | None = None,
        num_prefix_tokens: int = 0,
        temperature: float = 100.0,
        coordinates: str = "centered",
        offset: float = 0.0,
        reference_grid_shape: tuple[int, int] | None = None,
        axes: str = "yx",
        layout: str = "half",
        **kwargs,
    ):
        super().__init__(grid_shape, num_prefix_tokens, **kwargs)
        check_choice("coordinates", coordinates, COORDINATES)
        check_choice("axes", axes, AXES)
        check_choice("layout", layout, LAYOUTS)
        if reference_grid_shape is not None and coordinates == "centered":
            raise ValueError(
                "Centered coordinates do not depend on the size of the grid: "
                f"reference_grid_shape={reference_grid_shape} needs coordinates='index'."
            )
        self.temperature = temperature
        self.coordinates = coordinates
        self.offset = offset
        self.reference_grid_shape = reference_grid_shape and tuple(reference_grid_shape)
        self.axes = axes
        self.layout = layout

    def build(self, input_shape):
        _, length, _, width = input_shape
        self._check_length(length)
        self.check_width(width)
        exponents = np.arange(width // 4) / (width // 4)
        frequencies = self.temperature**-exponents
        y, x = (
            place[:, None] * frequencies
            for place in grid_coordinates(
                self.grid_shape, self.coordinates, self.offset, self.reference_grid_shape
            )
        )
        angles = np.concatenate([y, x] if self.axes == "yx" else [x, y], axis=1)
        angles = np.pad(angles, ((self.num_prefix_tokens, 0), (0, 0)))[:, None]
        self._tables = np.cos(angles).astype("float32"), np.sin(angles).astype("float32")

    def call(self, x):
        cos, sin = (ops.convert_to_tensor(table, "float32") for table in self._tables)
        return rotate(x, cos, sin, self.layout)

    def resized_tables(self, tables, source_grid_shape, resize):
        return {}


@keras.saving.register_keras_serializable(package="keras_vit")
class MixedRotaryPositions(AttentionPositions):
    """Rotary positions with learned frequencies of each head along both axes.

    The angles are `x * frequencies[0] + y * frequencies[1]`, where `x` and `y` are the
    column and the row of a patch. Prefix tokens are not rotated.

    Input and output: queries or keys `(b, n, k, head_dim)`, where
    `n = num_prefix_tokens + gh * gw` and `head_dim` is divisible by 4. An input with
    twice as many heads as the layer was built for has both.

    Args:
        grid_shape: `(gh, gw)`, rows and columns of patches.
        num_prefix_tokens: int, number of tokens before the grid.
        temperature: float, ratio of the first to the last initial frequency, were there
            one more.
        layout: pairs of entries that are rotated, `"interleaved"` or `"half"`; see
            `keras_vit.layers.rotary.rotate`.

    Example:

    >>> import keras, keras_vit
    >>> positions = keras_vit.layers.MixedRotaryPositions((2, 3))
    >>> tuple(positions(keras.random.uniform((2, 6, 4, 16))).shape)
    (2, 6, 4, 16)

    Reference: RoPE-ViT (arXiv:2403.13298) section 3.2.
    """

    name_in_attention = "rotary_positions"
    width_divisor = 4

    def __init__(
        self,
        grid_shape: tuple[int, int] | None = None,
        num_prefix_tokens: int = 0,
        temperature: float = 10.0,
        layout: str = "interleaved",
        **kwargs,
    ):
        super().__init__(grid_shape, num_prefix_tokens, **kwargs)
        check_choice("layout", layout, LAYOUTS)
        self.temperature = temperature
        self.layout = layout

    def build(self, input_shape):
        _, length, heads, width = input_shape
        self._check_length(length)
        self.check_width(width)
        self.frequencies = self.add_weight(
            name="frequencies",
            shape=(2, heads, width // 2),
            initializer=_RandomDirections(self.temperature),
            # Angles of several radians: bfloat16 would round them by hundredths.
            autocast=False,
        )

    def call(self, x):
        places = grid_coordinates(self.grid_shape, "index")
        y, x_axis = (ops.convert_to_tensor(p[:, None, None], "float32") for p in places)
        frequencies = to_float32(self.frequencies)
        angles = x_axis * frequencies[0] + y * frequencies[1]
        copies = x.shape[2] // frequencies.shape[1]
        angles = ops.tile(angles, (1, copies, 1))
        angles = ops.pad(angles, ((self.num_prefix_tokens, 0), (0, 0), (0, 0)))
        return rotate(x, ops.cos(angles), ops.sin(angles), self.layout)

    def resized_tables(self, tables, source_grid_shape, resize):
        return dict(tables)


class _RandomDirections:
    """Initializer of frequencies: orthogonal pairs in a random direction for each head.

    A class, not a function: to shard a weight, Keras lets JAX compile `__call__`.
    """

    def __init__(self, temperature):
        self.temperature = temperature
        self.seed = keras.initializers.RandomNormal().seed

    def __call__(self, shape, dtype=None):
        _, heads, width = shape
        exponents = np.arange(width // 2) / (width // 2)
        magnitude = self.temperature**-exponents
        direction = np.random.default_rng(self.seed).uniform(0, 2 * math.pi, (heads, 1))
        turns = [direction, direction + math.pi / 2]
        x = np.concatenate([magnitude * np.cos(turn) for turn in turns], axis=-1)
        y = np.concatenate([magnitude * np.sin(turn) for turn in turns], axis=-1)
        return ops.convert_to_tensor(np.stack([x, y]), dtype)


def grid_coordinates(grid_shape, coordinates, offset=0.0, reference_grid_shape=None):
    """Return the y and the x coordinate of every patch; see `RotaryPositions`.

    Args:
        grid_shape: `(gh, gw)`.
        coordinates: `"centered"` or `"index"`.
        offset: float, added to the rows and columns.
        reference_grid_shape: None, or `(rows, columns)` that `"index"` is scaled to.

    Returns:
        Two float64 arrays `(gh * gw,)`, in raster order.
    """
    axes = []
    for axis, size in enumerate(grid_shape):
        place = np.arange(size) + offset
        if coordinates == "centered":
            place = 2 * math.pi * (2 * (place + 0.5) / size - 1)
        elif reference_grid_shape is not None:
            place = place / size * reference_grid_shape[axis]
        axes.append(place)
    y, x = np.meshgrid(*axes, indexing="ij")
    return y.reshape(-1), x.reshape(-1)
