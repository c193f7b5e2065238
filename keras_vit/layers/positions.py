"""Position embeddings.

Each layer here adds positions to a sequence of tokens. Positions that act inside of the
attention are in `rotary.py` and `relative_positions.py`. `resized_tables` converts the
weights of a layer for another grid to those of this layer.
"""

from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops

from keras_vit.kernels.initial_values import InitialValues
from keras_vit.layers.base import Layer
from keras_vit.layers.resize import resize_axis, resize_positions


class _PositionLayer(InitialValues, Layer):
    """Base class: the grid, and the tokens in front of it."""

    # The width of the tokens must be a multiple of this.
    width_divisor = 1

    # Only positions inside of the attention may be made without a grid.
    grid_shape: Any

    def __init__(self, grid_shape: Any, num_prefix_tokens: int = 0, **kwargs):
        super().__init__(**kwargs)
        self.grid_shape = grid_shape and tuple(grid_shape)
        self.num_prefix_tokens = num_prefix_tokens

    def _add_table(self, name, shape):
        # A new initializer for each table, because a Keras initializer returns the same
        # values in every call. The standard deviation is that of Google's Flax code.
        initializer = keras.initializers.RandomNormal(stddev=0.02)
        return self.add_weight(name=name, shape=shape, initializer=initializer)

    def _check_length(self, length):
        if self.grid_shape is None:
            raise ValueError(
                f"{type(self).__name__} without a grid_shape can only be passed to a "
                "model, which fills in its own. Pass grid_shape=(rows, columns)."
            )
        gh, gw = self.grid_shape
        if length != self.num_prefix_tokens + gh * gw:
            raise ValueError(
                f"{type(self).__name__} for a grid of {gh}x{gw} and "
                f"{self.num_prefix_tokens} prefix tokens needs "
                f"{self.num_prefix_tokens + gh * gw} tokens; received {length}."
            )

    @classmethod
    def check_width(cls, width):
        """Raise a `ValueError` unless tokens may have this width."""
        if width % cls.width_divisor:
            raise ValueError(
                f"{cls.__name__} needs a width (hidden_dim) divisible by "
                f"{cls.width_divisor}; received {width}. Change it, or use "
                "positions='learned'."
            )

    def resized_tables(self, tables, source_grid_shape, resize):
        """Return the weights of this layer, computed from those for another grid.

        Args:
            tables: dict from weight name to array, for the source grid.
            source_grid_shape: `(gh, gw)` of the source grid.
            resize: name of a convention, see `keras_vit.layers.resize_grid`.

        Returns:
            Dict from weight name to array, with this layer's shapes.
        """
        raise NotImplementedError


class AttentionPositions(_PositionLayer):
    """Base class of positions that act inside of `SelfAttention`.

    `SelfAttention` calls the layer for the heads of queries and keys together, or only
    for the queries if the layer computes logits.

    Attributes:
        name_in_attention: name that `SelfAttention` gives its layer.
        computes_logits: bool, whether the layer returns attention logits instead of
            queries or keys that contain their positions.
    """

    name_in_attention: ClassVar[str]
    computes_logits: ClassVar[bool] = False

    @classmethod
    def check_width(cls, width):
        if width % cls.width_divisor:
            raise ValueError(
                f"{cls.__name__} needs heads with a width (hidden_dim / num_heads) "
                f"divisible by {cls.width_divisor}; received {width}."
            )

    def __init__(
        self,
        grid_shape: tuple[int, int] | None = None,
        num_prefix_tokens: int = 0,
        **kwargs,
    ):
        super().__init__(grid_shape, num_prefix_tokens, **kwargs)


@keras.saving.register_keras_serializable(package="keras_vit")
class LearnedPositions(_PositionLayer):
    """One learned vector for each token: the paper's 1-D positions.

    Input and output: `(b, num_prefix_tokens + gh * gw, d)`.

    Args:
        grid_shape: `(gh, gw)`, rows and columns of patches.
        num_prefix_tokens: number of tokens before the grid, which also get a learned
            vector (with a class token: 1).

    Raises:
        ValueError: the number of tokens in the input is different.

    Example:

    >>> import keras, keras_vit
    >>> tokens = keras.random.uniform((2, 5, 8))
    >>> positions = keras_vit.layers.LearnedPositions((2, 2), num_prefix_tokens=1)
    >>> tuple(positions(tokens).shape)
    (2, 5, 8)

    Reference: ViT (arXiv:2010.11929) equation 1, E_pos.
    """

    def build(self, input_shape):
        self._check_length(input_shape[1])
        self.embedding = self._add_table("embedding", (1, *input_shape[1:]))

    def call(self, tokens):
        return tokens + self.embedding

    def resized_tables(self, tables, source_grid_shape, resize):
        embedding = resize_positions(
            tables["embedding"], source_grid_shape, self.grid_shape, resize
        )
        return {"embedding": embedding}


@keras.saving.register_keras_serializable(package="keras_vit")
class LearnedPositions2D(_PositionLayer):
    """Learned vectors for the column and the row of each grid token, side by side.

    The first `d / 2` entries belong to the column (the paper's X-embedding), the others
    to the row (Y-embedding). Prefix tokens have no place on the grid and are unchanged.

    Input and output: `(b, num_prefix_tokens + gh * gw, d)`, where `d` is even.

    Args:
        grid_shape: `(gh, gw)`, rows and columns of patches.
        num_prefix_tokens: number of tokens before the grid.

    Raises:
        ValueError: the number of tokens in the input is different, or `d` is odd.

    Example:

    >>> import keras, keras_vit
    >>> tokens = keras.random.uniform((2, 6, 8))
    >>> tuple(keras_vit.layers.LearnedPositions2D((2, 3))(tokens).shape)
    (2, 6, 8)

    Reference: ViT (arXiv:2010.11929) appendix D.4.
    """

    width_divisor = 2

    def build(self, input_shape):
        self._check_length(input_shape[1])
        width = input_shape[-1]
        self.check_width(width)
        gh, gw = self.grid_shape
        self.columns = self._add_table("columns", (gw, width // 2))
        self.rows = self._add_table("rows", (gh, width // 2))

    def call(self, tokens):
        (gh, gw), width = self.grid_shape, tokens.shape[-1]
        columns = ops.broadcast_to(self.columns[None], (gh, gw, width // 2))
        rows = ops.broadcast_to(self.rows[:, None], (gh, gw, width // 2))
        grid = ops.reshape(ops.concatenate([columns, rows], axis=-1), (-1, width))
        return tokens + ops.pad(grid, ((self.num_prefix_tokens, 0), (0, 0)))

    def resized_tables(self, tables, source_grid_shape, resize):
        gh, gw = self.grid_shape
        return {
            "columns": resize_axis(tables["columns"], gw, resize),
            "rows": resize_axis(tables["rows"], gh, resize),
        }


@keras.saving.register_keras_serializable(package="keras_vit")
class SinCosPositions2D(_PositionLayer):
    """Fixed 2-D sine-cosine vectors for the grid tokens, without weights.

    The entries are ordered sin x, cos x, sin y, cos y, with `d / 4` frequencies from 1
    down to 1 / 10000. Prefix tokens are unchanged.

    Input and output: `(b, num_prefix_tokens + gh * gw, d)`, where `d` is divisible by 4.

    Args:
        grid_shape: `(gh, gw)`, rows and columns of patches.
        num_prefix_tokens: number of tokens before the grid.

    Raises:
        ValueError: the number of tokens in the input is different, or `d` is not
            divisible by 4.

    Example:

    >>> import keras, keras_vit
    >>> tokens = keras.random.uniform((2, 6, 8))
    >>> tuple(keras_vit.layers.SinCosPositions2D((2, 3))(tokens).shape)
    (2, 6, 8)

    Reference: "Better plain ViT baselines" (arXiv:2205.01580); MoCo v3.
    """

    width_divisor = 4

    def build(self, input_shape):
        self._check_length(input_shape[1])
        width = input_shape[-1]
        self.check_width(width)
        gh, gw = self.grid_shape
        y, x = np.mgrid[:gh, :gw].reshape(2, -1, 1)
        frequency = np.geomspace(1.0, 1e-4, width // 4)
        angles = [np.sin(x * frequency), np.cos(x * frequency)]
        angles += [np.sin(y * frequency), np.cos(y * frequency)]
        table = np.concatenate(angles, axis=1).astype("float32")
        self._table = np.pad(table, ((self.num_prefix_tokens, 0), (0, 0)))

    def call(self, tokens):
        return tokens + ops.convert_to_tensor(self._table, dtype=tokens.dtype)

    def resized_tables(self, tables, source_grid_shape, resize):
        return {}


@keras.saving.register_keras_serializable(package="keras_vit")
class SinCosPositions1D(_PositionLayer):
    """Fixed sine-cosine vectors for the place of each token in the sequence.

    Entries `2 i` and `2 i + 1` are the sine and the cosine of
    `place / 10000 ** (2 i / d)`. The table is a non-trainable weight, as in T2T-ViT's
    checkpoints; for another number of tokens it is computed again.

    Input and output: `(b, num_prefix_tokens + gh * gw, d)`.

    Args:
        grid_shape: `(gh, gw)`, rows and columns of patches.
        num_prefix_tokens: number of tokens before the grid, which have a place as well.

    Raises:
        ValueError: the number of tokens in the input is different.

    Example:

    >>> import keras, keras_vit
    >>> layer = keras_vit.layers.SinCosPositions1D((1, 2))
    >>> keras.ops.convert_to_numpy(layer(keras.ops.zeros((1, 2, 2)))).round(1).tolist()
    [[[0.0, 1.0], [0.800000011920929, 0.5]]]

    Reference: Attention Is All You Need (arXiv:1706.03762) section 3.5; T2T-ViT
    (arXiv:2101.11986).
    """

    def build(self, input_shape):
        self._check_length(input_shape[1])
        self.embedding = self.add_weight(
            name="embedding",
            shape=(1, *input_shape[1:]),
            initializer=_Sinusoids(),
            trainable=False,
        )

    def call(self, tokens):
        return tokens + self.embedding

    def resized_tables(self, tables, source_grid_shape, resize):
        shape = tuple(self.embedding.shape)
        if tables["embedding"].shape == shape:
            return tables
        return {"embedding": sinusoids(*shape[1:])}


class _Sinusoids:
    # A class, not a function: to shard a weight, Keras lets JAX compile `__call__`.
    def __call__(self, shape, dtype=None):
        return ops.convert_to_tensor(sinusoids(*shape[1:]), dtype)


def sinusoids(length: int, width: int) -> np.ndarray:
    """Return the table of `SinCosPositions1D`.

    Args:
        length: int, number of tokens.
        width: int, width of a token.

    Returns:
        Array `(1, length, width)`, float32.
    """
    entry = np.arange(width)
    angle = np.arange(length)[:, None] / 10000 ** (entry // 2 * 2 / width)
    table = np.where(entry % 2, np.cos(angle), np.sin(angle))
    return table[None].astype("float32")
