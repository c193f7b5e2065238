"""Relative positions, which are added to the logits of the attention."""

import keras
import numpy as np
from keras import ops

from keras_vit.layers.dense import Dense
from keras_vit.layers.positions import AttentionPositions
from keras_vit.layers.resize import resize_axis, resize_offsets


@keras.saving.register_keras_serializable(package="keras_vit")
class RelativePositions(AttentionPositions):
    """Attention logits that depend on the offset between two patches.

    Each query is multiplied by entries of two learned tables, one indexed by the
    difference of the rows and one by that of the columns:
    `logit[i, j] = q_i . (rows[y_i - y_j] + columns[x_i - x_j])`. All heads share the
    tables. Pairs that include a prefix token get 0.

    Input: queries `(b, k, n, head_dim)`, scaled as for the main logits.
    Output: `(b, k, n, n)`, to be added to the logits, `n = num_prefix_tokens + gh * gw`.

    Its place is in `SelfAttention`.

    Args:
        grid_shape: `(gh, gw)`, rows and columns of patches.
        num_prefix_tokens: number of tokens before the grid.

    Raises:
        ValueError: the number of tokens in the input is different.

    Example:

    >>> import keras, keras_vit
    >>> queries = keras.random.uniform((2, 4, 5, 8))
    >>> relative = keras_vit.layers.RelativePositions((2, 2), num_prefix_tokens=1)
    >>> tuple(relative(queries).shape)
    (2, 4, 5, 5)

    Reference: ViT (arXiv:2010.11929) appendix D.4, where the queries attend to embeddings
    of the offset. Deviation: the paper takes offsets along the raster scan, where the end
    of one row is next to the start of the following row, so that offsets have no meaning
    on another grid. Here rows and columns have separate tables, as in MViTv2
    (arXiv:2112.01526, equation 4), which can be resized.
    """

    name_in_attention = "relative_positions"
    computes_logits = True

    def build(self, input_shape):
        self._check_length(input_shape[2])
        (gh, gw), head_dim = self.grid_shape, input_shape[-1]
        self.rows = self._add_table("rows", (2 * gh - 1, head_dim))
        self.columns = self._add_table("columns", (2 * gw - 1, head_dim))

    def call(self, queries):
        gh, gw = self.grid_shape
        _, heads, _, head_dim = queries.shape
        prefix = self.num_prefix_tokens
        grid = ops.reshape(queries[:, :, prefix:], (-1, heads, gh, gw, head_dim))
        # Row y of the gathered table holds the vectors for queries in row y and keys in
        # rows 0, 1, ...
        rows = ops.take(self.rows, _offsets(gh), axis=0)
        columns = ops.take(self.columns, _offsets(gw), axis=0)
        by_row = ops.einsum("bkyxd,yYd->bkyxY", grid, rows)
        by_column = ops.einsum("bkyxd,xXd->bkyxX", grid, columns)
        logits = by_row[..., :, None] + by_column[..., None, :]
        logits = ops.reshape(logits, (-1, heads, gh * gw, gh * gw))
        return ops.pad(logits, ((0, 0), (0, 0), (prefix, 0), (prefix, 0)))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], input_shape[2])

    def resized_tables(self, tables, source_grid_shape, resize):
        gh, gw = self.grid_shape
        return {
            "rows": resize_axis(tables["rows"], 2 * gh - 1, resize),
            "columns": resize_axis(tables["columns"], 2 * gw - 1, resize),
        }


def _offsets(length):
    """Return the table's row for each pair of positions, `(length, length)`, int32."""
    offsets = np.arange(length)[:, None] - np.arange(length) + length - 1
    # With floatx bfloat16, Keras's JAX backend turns an array without a dtype argument
    # into bfloat16.
    return ops.convert_to_tensor(offsets, "int32")


@keras.saving.register_keras_serializable(package="keras_vit")
class RelativePositionBias(AttentionPositions):
    """Attention logits from a learned table with one row for each offset of two patches.

    Each head has its own column. With prefix tokens, the table has three more rows: for a
    prefix token that attends to a patch, for a patch that attends to a prefix token, and
    for two prefix tokens.

    Input: queries `(b, k, n, head_dim)`, of which only the shape is used.
    Output: `(k, n, n)`, to be added to the logits, `n = num_prefix_tokens + gh * gw`.

    Its place is in `SelfAttention`.

    Args:
        grid_shape: `(gh, gw)`, rows and columns of patches.
        num_prefix_tokens: int, number of tokens before the grid.

    Raises:
        ValueError: the number of tokens in the input is different.

    Example:

    >>> import keras, keras_vit
    >>> bias = keras_vit.layers.RelativePositionBias((2, 2), num_prefix_tokens=1)
    >>> tuple(bias(keras.random.uniform((2, 4, 5, 8))).shape), tuple(bias.table.shape)
    ((4, 5, 5), (12, 4))

    Reference: BEiT (arXiv:2106.08254); Swin Transformer (arXiv:2103.14030) equation 4.
    """

    name_in_attention = "relative_bias"
    computes_logits = True

    def build(self, input_shape):
        self._check_length(input_shape[2])
        gh, gw = self.grid_shape
        rows = (2 * gh - 1) * (2 * gw - 1) + 3 * (self.num_prefix_tokens > 0)
        self.table = self.add_weight(
            name="table", shape=(rows, input_shape[1]), initializer="zeros"
        )
        self._index = self._table_index()

    def _table_index(self):
        """Return the table's row for each pair of tokens, `(n, n)`, int32."""
        prefix, offsets = self.num_prefix_tokens, grid_offsets(self.grid_shape)
        index = np.pad(offsets, ((prefix, 0), (prefix, 0)))
        last = offsets.max()
        index[:prefix] = last + 1
        index[:, :prefix] = last + 2
        index[:prefix, :prefix] = last + 3
        return index.astype("int32")

    def call(self, queries):
        index = ops.convert_to_tensor(self._index, "int32")
        return ops.transpose(ops.take(self.table, index, axis=0), (2, 0, 1))

    def compute_output_shape(self, input_shape):
        return (input_shape[1], input_shape[2], input_shape[2])

    def resized_tables(self, tables, source_grid_shape, resize):
        """Return the table for this layer's grid.

        Offsets are resized as in BEiT's code, whatever the convention: most samples are
        taken from small offsets. If only one axis has another length, BEiT's code samples
        the other axis at slightly different places, too.
        """
        if tuple(source_grid_shape) == tuple(self.grid_shape):
            return dict(tables)
        table = np.asarray(tables["table"])
        source, target = (
            tuple(2 * size - 1 for size in grid)
            for grid in (source_grid_shape, self.grid_shape)
        )
        count = source[0] * source[1]
        grid = table[:count].reshape(*source, -1)
        grid = resize_offsets(resize_offsets(grid, target[0], 0), target[1], 1)
        grid = grid.reshape(target[0] * target[1], -1).astype(table.dtype)
        return {"table": np.concatenate([grid, table[count:]])}


@keras.saving.register_keras_serializable(package="keras_vit")
class RelativePositionMLP(AttentionPositions):
    """Attention logits that an MLP computes from the offset of two patches.

    The MLP maps `sign(offset) * log(1 + |offset|)` of rows and columns to one logit for
    each head, through one hidden layer with ReLU. Pairs that include a prefix token
    get 0.

    Input: queries `(b, k, n, head_dim)`, of which only the shape is used.
    Output: `(k, n, n)`, to be added to the logits, `n = num_prefix_tokens + gh * gw`.

    Its place is in `SelfAttention`.

    Args:
        grid_shape: `(gh, gw)`, rows and columns of patches.
        num_prefix_tokens: int, number of tokens before the grid.
        hidden_dim: int, width of the hidden layer.

    Raises:
        ValueError: the number of tokens in the input is different.

    Example:

    >>> import keras, keras_vit
    >>> positions = keras_vit.layers.RelativePositionMLP((2, 2), num_prefix_tokens=1)
    >>> tuple(positions(keras.random.uniform((2, 4, 5, 8))).shape)
    (4, 5, 5)

    Reference: Swin Transformer V2 (arXiv:2111.09883) section 3.3, as in timm's ViTs with
    relative positions.
    """

    name_in_attention = "relative_mlp"
    computes_logits = True

    def __init__(
        self,
        grid_shape: tuple[int, int] | None = None,
        num_prefix_tokens: int = 0,
        hidden_dim: int = 512,
        **kwargs,
    ):
        super().__init__(grid_shape, num_prefix_tokens, **kwargs)
        self.hidden_dim = hidden_dim
        dtype = self.dtype_policy
        self.expand = Dense(hidden_dim, activation="relu", dtype=dtype, name="expand")

    def build(self, input_shape):
        self._check_length(input_shape[2])
        self.contract = Dense(input_shape[1], dtype=self.dtype_policy, name="contract")
        self.expand.build((None, 2))
        self.contract.build((None, self.hidden_dim))
        gh, gw = self.grid_shape
        offsets = np.mgrid[1 - gh : gh, 1 - gw : gw].reshape(2, -1).T
        self._offsets = np.sign(offsets) * np.log1p(np.abs(offsets))
        self._index = grid_offsets(self.grid_shape).astype("int32")

    def call(self, queries):
        offsets = ops.convert_to_tensor(self._offsets, dtype=self.compute_dtype)
        table = self.contract(self.expand(offsets))
        index = ops.convert_to_tensor(self._index, "int32")
        logits = ops.transpose(ops.take(table, index, axis=0), (2, 0, 1))
        prefix = (self.num_prefix_tokens, 0)
        return ops.pad(logits, ((0, 0), prefix, prefix))

    def compute_output_shape(self, input_shape):
        return (input_shape[1], input_shape[2], input_shape[2])

    def resized_tables(self, tables, source_grid_shape, resize):
        return dict(tables)


def from_earlier(config):
    """Return a layer's config in which `relative_grid_shape` has become `positions`.

    Files of earlier versions have this argument in the configs of attention and blocks.
    """
    config = dict(config)
    grid_shape = config.pop("relative_grid_shape", None)
    if grid_shape is not None:
        config["positions"] = RelativePositions(grid_shape)
    return config


def grid_offsets(grid_shape):
    """Return the number of the offset between two patches, `(gh * gw, gh * gw)`.

    Offsets are numbered in raster order, from `(1 - gh, 1 - gw)` to `(gh - 1, gw - 1)`.
    """
    gh, gw = grid_shape
    y, x = np.mgrid[:gh, :gw].reshape(2, -1)
    rows = y[:, None] - y + gh - 1
    columns = x[:, None] - x + gw - 1
    return rows * (2 * gw - 1) + columns
