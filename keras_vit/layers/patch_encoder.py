"""Conversion of flat patches to tokens: projection, prefix tokens, positions."""

from typing import Any, ClassVar

import keras
from keras import ops

from keras_vit.choices import check_choice
from keras_vit.kernels.initial_values import InitialValues
from keras_vit.layers.base import Composite, stored
from keras_vit.layers.dense import Dense
from keras_vit.layers.norms import make_norm
from keras_vit.layers.position_kinds import ADDED_POSITIONS, split_positions

# Places of a norm in the patch encoder.
EMBEDDING_NORMS = (None, "patches", "tokens")


@keras.saving.register_keras_serializable(package="keras_vit")
class PatchEncoder(InitialValues, Composite):
    """Projection of patches to tokens, with prefix tokens and positions.

    The tokens are ordered class token, distillation token, registers, grid in raster
    order. Learned positions have rows for the first two, unless
    `class_token_position=False`. Registers get no positions, because they are free
    vectors already (arXiv:2309.16588).

    Input: flat patches `(b, gh * gw, p * p * c)`, the output of `Patches`.
    Output: `(b, n, hidden_dim)`, where `n` is `gh * gw` plus the number of prefix tokens.

    Args:
        hidden_dim: int, width `d` of the tokens.
        grid_shape: `(gh, gw)`, rows and columns of patches.
        class_token: bool, whether a learned class token is prepended.
        registers: int, number of learned register tokens.
        positions: `"learned"` (1-D), `"learned_2d"`, `"sincos_2d"`, `"sincos_1d"` or
            `"none"`, as for `ViT`. Positions that are part of the attention, such as
            `"relative"`, add nothing here.
        class_token_position: bool, whether learned positions have rows for the tokens
            before the registers.
        distillation_token: bool, whether a second learned token follows the class token.
        norm: None; `"patches"` for a norm right after the projection (AIMv2); or
            `"tokens"` for a norm of the complete tokens, with a projection without a bias
            (CLIP).
        norm_kind: kind of this norm, see `ViT`.
        layer_norm_epsilon: float, added to the variance in this norm.

    Raises:
        ValueError: unknown `positions`, a number of patches other than the grid's, or
            a width that the kind of positions does not allow.

    Example:

    >>> import keras, keras_vit
    >>> patches = keras.random.uniform((2, 6, 768))
    >>> encoder = keras_vit.layers.PatchEncoder(64, grid_shape=(2, 3), class_token=True)
    >>> tuple(encoder(patches).shape)
    (2, 7, 64)

    Reference: ViT (arXiv:2010.11929) equation 1; distillation token: DeiT
    (arXiv:2012.12877) section 4.
    """

    _attributes: ClassVar = {
        "class_token": "has_class_token",
        "distillation_token": "has_distillation_token",
        "norm": "norm_place",
        "positions": "position_kind",
        "registers": "num_registers",
    }

    def __init__(
        self,
        hidden_dim: int,
        grid_shape: tuple[int, int],
        class_token: bool = False,
        registers: int = 0,
        positions: str = "learned",
        class_token_position: bool = True,
        distillation_token: bool = False,
        norm: str | None = None,
        norm_kind: str = "layer",
        layer_norm_epsilon: float = 1e-6,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        rows, columns = grid_shape
        self.grid_shape = (rows, columns)
        self.has_class_token = bool(class_token)
        self.has_distillation_token = bool(distillation_token)
        self.class_token_position = class_token_position
        self.num_registers = registers
        self.position_kind = stored(positions)
        check_choice("norm", norm, EMBEDDING_NORMS)
        self.norm_place = norm
        self.norm_kind = stored(norm_kind)
        self.layer_norm_epsilon = layer_norm_epsilon
        self.projection = Dense(
            hidden_dim,
            use_bias=norm != "tokens",
            kernel_initializer="lecun_normal",
            dtype=self.dtype_policy,
            name="projection",
        )
        self.norm: Any = None
        if norm is not None:
            self.norm = make_norm(
                norm_kind, layer_norm_epsilon, dtype=self.dtype_policy, name="norm"
            )
        self.positions = None
        added, _ = split_positions(positions)
        if added in ADDED_POSITIONS:
            ADDED_POSITIONS[added].check_width(hidden_dim)
            self.positions = ADDED_POSITIONS[added](
                self.grid_shape,
                num_prefix_tokens=self._num_tokens() if class_token_position else 0,
                dtype=self.dtype_policy,
                name="positions",
            )

    def _num_tokens(self):
        return int(self.has_class_token) + int(self.has_distillation_token)

    def build(self, input_shape):
        gh, gw = self.grid_shape
        if len(input_shape) != 3 or input_shape[1] != gh * gw:
            raise ValueError(
                f"PatchEncoder with grid_shape={self.grid_shape} needs patches of shape "
                f"(batch, {gh * gw}, length); received {tuple(input_shape)}."
            )
        self.projection.build(input_shape)
        if self.norm is not None:
            self.norm.build((None, None, self.hidden_dim))
        shape = (1, 1, self.hidden_dim)
        if self.has_class_token:
            self.class_token = self.add_weight(
                name="class_token", shape=shape, initializer="zeros"
            )
        if self.has_distillation_token:
            # DeiT's value. If both tokens were zero, they would stay equal.
            self.distillation_token = self.add_weight(
                name="distillation_token",
                shape=shape,
                initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            )
        if self.positions is not None:
            length = self.positions.num_prefix_tokens + gh * gw
            self.positions.build((None, length, self.hidden_dim))
        if self.num_registers:
            # The normal(1e-6) of timm and DINOv2, so that no two registers are equal.
            self.registers = self.add_weight(
                name="registers",
                shape=(1, self.num_registers, self.hidden_dim),
                initializer=keras.initializers.RandomNormal(stddev=1e-6),
            )

    def call(self, patches):
        return self.add_prefix_and_positions(self.projection(patches))

    def add_prefix_and_positions(self, tokens, positions=None):
        """Add prefix tokens and positions to projected patches, and apply the norm.

        Args:
            tokens: `(b, gh * gw, hidden_dim)`, projected patches.
            positions: None for the layer's own positions, or a function that adds those
                of another grid.

        Returns:
            The output of the layer, in the dtype of `tokens`.
        """
        batch = ops.shape(tokens)[0]
        positions = positions or self.positions

        def copies(weight):
            shape = (batch, *weight.shape[1:])
            return ops.broadcast_to(ops.cast(weight, tokens.dtype), shape)

        if self.norm_place == "patches":
            tokens = self.norm(tokens)
        if positions is not None and not self.class_token_position:
            tokens = positions(tokens)
        prefix = []
        if self.has_class_token:
            prefix.append(copies(self.class_token))
        if self.has_distillation_token:
            prefix.append(copies(self.distillation_token))
        if prefix:
            tokens = ops.concatenate([*prefix, tokens], axis=1)
        if positions is not None and self.class_token_position:
            tokens = positions(tokens)
        if self.num_registers:
            first = self._num_tokens()
            parts = [tokens[:, :first], copies(self.registers), tokens[:, first:]]
            # LiteRT cannot concatenate a part without tokens.
            tokens = ops.concatenate(parts if first else parts[1:], axis=1)
        return self.norm(tokens) if self.norm_place == "tokens" else tokens

    def compute_output_shape(self, input_shape):
        prefix = self._num_tokens() + self.num_registers
        return (input_shape[0], prefix + input_shape[1], self.hidden_dim)
