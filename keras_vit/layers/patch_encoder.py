"""Flat patches to tokens: projection, prefix tokens, positions."""

import keras
from keras import ops

from keras_vit.layers.dense import Dense
from keras_vit.layers.positions import ADDED_POSITIONS, check_positions


@keras.saving.register_keras_serializable(package="keras_vit")
class PatchEncoder(keras.layers.Layer):
    """Projects patches, puts prefix tokens in front, and adds positions.

    The tokens come in the order class token, registers, grid in raster order. The
    class token has a row of its own in learned positions; registers get no positions
    (they are free vectors already, arXiv:2309.16588).

    Input: flat patches `(b, gh * gw, p * p * c)`, as `Patches` gives them.
    Output: `(b, class_token + registers + gh * gw, hidden_dim)`.

    Args:
        hidden_dim: int, width `d` of the tokens.
        grid_shape: `(gh, gw)`, rows and columns of patches.
        class_token: bool, whether a learned class token is prepended.
        registers: int, number of learned register tokens.
        positions: `"learned"` (1-D), `"learned_2d"`, `"sincos_2d"` or `"none"`.
            `"relative"` positions belong to attention: nothing is added here.

    Raises:
        ValueError: unknown `positions`, a number of patches other than the grid's, or
            a width that the kind of positions does not allow.

    Example:

    >>> import keras, keras_vit
    >>> patches = keras.random.uniform((2, 6, 768))
    >>> encoder = keras_vit.layers.PatchEncoder(64, grid_shape=(2, 3), class_token=True)
    >>> tuple(encoder(patches).shape)
    (2, 7, 64)

    Source: ViT (arXiv:2010.11929) equation 1.
    """

    def __init__(
        self,
        hidden_dim: int,
        grid_shape: tuple[int, int],
        class_token: bool = False,
        registers: int = 0,
        positions: str = "learned",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positions(positions, hidden_dim)
        self.hidden_dim = hidden_dim
        rows, columns = grid_shape
        self.grid_shape = (rows, columns)
        self.has_class_token = bool(class_token)
        self.num_registers = registers
        self.position_kind = positions
        self.projection = Dense(
            hidden_dim,
            kernel_initializer="lecun_normal",
            dtype=self.dtype_policy,
            name="projection",
        )
        self.positions = None
        if positions in ADDED_POSITIONS:
            self.positions = ADDED_POSITIONS[positions](
                self.grid_shape,
                num_prefix_tokens=int(self.has_class_token),
                dtype=self.dtype_policy,
                name="positions",
            )

    def build(self, input_shape):
        gh, gw = self.grid_shape
        if len(input_shape) != 3 or input_shape[1] != gh * gw:
            raise ValueError(
                f"PatchEncoder with grid_shape={self.grid_shape} needs patches of shape "
                f"(batch, {gh * gw}, length); received {tuple(input_shape)}."
            )
        self.projection.build(input_shape)
        if self.has_class_token:
            self.class_token = self.add_weight(
                name="class_token", shape=(1, 1, self.hidden_dim), initializer="zeros"
            )
        if self.positions is not None:
            length = int(self.has_class_token) + gh * gw
            self.positions.build((None, length, self.hidden_dim))
        if self.num_registers:
            # timm's and DINOv2's normal(1e-6): no two registers start alike.
            self.registers = self.add_weight(
                name="registers",
                shape=(1, self.num_registers, self.hidden_dim),
                initializer=keras.initializers.RandomNormal(stddev=1e-6),
            )
        self.built = True

    def call(self, patches):
        tokens = self.projection(patches)
        batch = ops.shape(tokens)[0]
        if self.has_class_token:
            class_token = ops.broadcast_to(
                ops.cast(self.class_token, tokens.dtype), (batch, 1, self.hidden_dim)
            )
            tokens = ops.concatenate([class_token, tokens], axis=1)
        if self.positions is not None:
            tokens = self.positions(tokens)
        if self.num_registers:
            registers = ops.broadcast_to(
                ops.cast(self.registers, tokens.dtype),
                (batch, self.num_registers, self.hidden_dim),
            )
            first = int(self.has_class_token)
            tokens = ops.concatenate(
                [tokens[:, :first], registers, tokens[:, first:]], axis=1
            )
        return tokens

    def compute_output_shape(self, input_shape):
        prefix = int(self.has_class_token) + self.num_registers
        return (input_shape[0], prefix + input_shape[1], self.hidden_dim)

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "grid_shape": self.grid_shape,
            "class_token": self.has_class_token,
            "registers": self.num_registers,
            "positions": self.position_kind,
        }
