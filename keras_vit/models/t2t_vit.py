"""Tokens-to-Token ViT."""

import inspect
from collections.abc import Sequence
from typing import Any

import keras

from keras_vit.choices import check_choice
from keras_vit.layers import (
    Dense,
    DenseBlock,
    GhostBlock,
    SqueezeExcitationBlock,
    TokensToToken,
    TransformerBlock,
)
from keras_vit.layers.attention import head_dim
from keras_vit.layers.backbones import ghost_copies
from keras_vit.layers.mlp import get_activation
from keras_vit.models.adapt import adapted
from keras_vit.models.blocks import block_arguments
from keras_vit.models.vit import ViT
from keras_vit.weights.t2t import PREPROCESSING

_BLOCKS = {
    "plain": TransformerBlock,
    "se": SqueezeExcitationBlock,
    "ghost": GhostBlock,
    "dense": DenseBlock,
}
# Arguments of ViT that T2TViT does not have.
_SETTLED = ("patch_size", "stem", "token_reduction")


@keras.saving.register_keras_serializable(package="keras_vit")
class T2TViT(ViT):
    """Tokens-to-Token ViT, a `ViT` that merges neighboring tokens step by step.

    Three overlapping splits with attention between them (`TokensToToken`) replace the
    patches; a deep and narrow Transformer follows. The named variants (`T2TViT14`, ...)
    have predefined sizes.

    The input and the output are those of `ViT`. By default, `model.preprocessor` resizes
    images bicubically, crops 0.9 of them and uses ImageNet's mean and standard deviation.

    Args:
        input_shape: `(height, width, channels)` of the images, multiples of 16; may be
            rectangular.
        hidden_dim: int, width of the tokens; with `backbone="dense"`, of the first block.
        num_layers: int, number of blocks; with `backbone="dense"`, a sequence of ints,
            the number of blocks in each stage. Between stages, a dense layer halves the
            width.
        num_heads: int, number of attention heads; must divide `hidden_dim` or, with
            `backbone="dense"`, the width of every block.
        mlp_dim: int, width of the MLPs; with `backbone="dense"`, of the first one, to
            which the others are proportional by the widths of their blocks.
        tokens: layer between the splits: `"performer"`, `"transformer"`, or
            `"convolution"` (for comparison).
        token_dim: int, width of the tokens between the splits.
        token_dropout_rate: dropout rate between the splits; None for that of the
            original: 0.1 in Performers, 0 in other layers.
        backbone: `"plain"`, `"se"` (squeeze and excitation), `"ghost"` (cheap copies) or
            `"dense"` (dense connections).
        growth_rate: None, or with `backbone="dense"` an int, the number of channels that
            a block adds.
        positions: as for `ViT`; the original uses `"sincos_1d"`.
        qkv_bias: bool, whether q, k and v of the blocks have biases.
        activation: activation of the MLPs, also between the splits; see `ViT`.
        layer_norm_epsilon: float, added to the variance.
        **kwargs: as for `ViT`: `classes`, `include_top`, `pooling`, `dropout_rate`,
            `stochastic_depth_rate`, `remat` (also of the layers between the splits),
            `weights`, `head`, `preprocessor`, `name`, `dtype`, ...; all except
            `patch_size`, `stem` and `token_reduction`.

    Raises:
        TypeError: `patch_size`, `stem` or `token_reduction` is given.
        ValueError: as for `ViT`. If the strides of the splits do not divide the image,
            the message names the nearest size that they divide.

    Example:

    >>> import keras, keras_vit
    >>> model = keras_vit.T2TViT(
    ...     input_shape=(32, 48, 3), hidden_dim=48, num_layers=2, num_heads=3, mlp_dim=96,
    ...     token_dim=16, classes=10,
    ... )
    >>> pixels = keras.random.uniform((2, 32, 48, 3), maxval=255)
    >>> tuple(model(model.preprocessor(pixels)).shape)
    (2, 10)

    Reference: T2T-ViT (arXiv:2101.11986). Deviations, which affect only training: weights
    are initialized as in ViT instead of all from a normal distribution of 0.02; the
    stochastic depth rate grows from block to block in the dense backbone as well,
    instead of from stage to stage.
    """

    _preprocessing = PREPROCESSING

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (224, 224, 3),
        hidden_dim: int = 384,
        num_layers: int | Sequence[int] = 14,
        num_heads: int = 6,
        mlp_dim: int = 1152,
        tokens: str = "performer",
        token_dim: int = 64,
        token_dropout_rate: float | None = None,
        backbone: str = "plain",
        growth_rate: int | None = None,
        positions: str = "sincos_1d",
        qkv_bias: bool = False,
        activation: str = "gelu",
        layer_norm_epsilon: float = 1e-5,
        **kwargs: Any,
    ):
        for argument in _SETTLED:
            if argument in kwargs:
                raise TypeError(
                    f"T2TViT has no argument {argument!r}: `tokens` and `token_dim` "
                    "determine the tokens."
                )
        check_choice("backbone", backbone, _BLOCKS)
        stages = _stages(backbone, num_layers, growth_rate)
        stem = TokensToToken(
            tokens,
            token_dim,
            activation=activation,
            layer_norm_epsilon=layer_norm_epsilon,
            dropout_rate=token_dropout_rate,
            remat=kwargs.get("remat", False) in (True, "block"),
        )
        arguments = inspect.signature(ViT).bind(
            input_shape=input_shape,
            patch_size=1,
            hidden_dim=hidden_dim,
            num_layers=sum(stages),
            num_heads=num_heads,
            mlp_dim=mlp_dim,
            positions=positions,
            qkv_bias=qkv_bias,
            activation=activation,
            layer_norm_epsilon=layer_norm_epsilon,
            stem=stem,
            **kwargs,
        )
        arguments.apply_defaults()
        self._create(
            arguments.arguments,
            _blocks,
            {
                "num_layers": stages if backbone == "dense" else num_layers,
                "tokens": tokens,
                "token_dim": token_dim,
                "token_dropout_rate": token_dropout_rate,
                "backbone": backbone,
                "growth_rate": growth_rate,
            },
        )

    def with_token_reduction(
        self, token_reduction: int | Sequence[int] | keras.layers.Layer | None
    ) -> "T2TViT":
        """Return a copy of the network; all of its blocks have all tokens.

        Args:
            token_reduction: None.

        Returns:
            A new, uncompiled `T2TViT`.

        Raises:
            ValueError: `token_reduction` is not None.
        """
        if token_reduction is not None:
            raise ValueError(
                "T2TViT has fewer tokens from the start, and keeps them in all blocks: "
                f"token_reduction must be None; received {token_reduction!r}."
            )
        return adapted(self, {})

    def get_config(self):
        config = super().get_config()
        return {key: value for key, value in config.items() if key not in _SETTLED}


def _stages(backbone, num_layers, growth_rate):
    """Check the arguments of a backbone, and return the number of blocks per stage."""
    dense = backbone == "dense"
    stages = tuple(num_layers) if isinstance(num_layers, Sequence) else (num_layers,)
    if (
        isinstance(num_layers, Sequence) != dense
        or not stages
        or not all(isinstance(depth, int) and depth > 0 for depth in stages)
    ):
        allowed = "positive ints, the blocks of each stage" if dense else "a positive int"
        raise ValueError(
            f"With backbone={backbone!r} num_layers must be {allowed}; received "
            f"{num_layers!r}."
        )
    if dense != (isinstance(growth_rate, int) and growth_rate > 0) or (
        not dense and growth_rate is not None
    ):
        raise ValueError(
            "growth_rate must be a positive int with backbone='dense', and None with "
            f"others; received {growth_rate!r} with backbone={backbone!r}."
        )
    return stages


def _blocks(network):
    """Check the widths of all blocks, and return an iterator that creates the blocks.

    Args:
        network: as for `keras_vit.models.vit.connect`.
    """
    stages = _stages(network.backbone, network.num_layers, network.growth_rate)
    widths, width = [], network.hidden_dim
    for stage, depth in enumerate(stages):
        if stage:
            width //= 2  # The transition before a stage halves the width.
        for _ in range(depth):
            widths.append(width)
            width += network.growth_rate or 0
    for width in widths:
        head_dim(width, network.num_heads)
        if network.backbone == "ghost":
            ghost_copies(width, _mlp_dim(network, width))
    return _made(network, widths)


def _made(network, widths):
    """Yield the blocks, and the dense layers that halve the width between stages."""
    growth = {} if network.growth_rate is None else {"growth_rate": network.growth_rate}
    incoming = network.hidden_dim
    for index, width in enumerate(widths):
        arguments = block_arguments(network, index, len(widths))
        arguments["mlp_dim"] = _mlp_dim(network, width)
        if width < incoming:
            yield Dense(
                width,
                activation=get_activation(network.activation),
                dtype=network.policy,
                name=f"transition_{index}",
            )
        yield _BLOCKS[network.backbone](**arguments, **growth)
        incoming = width + (network.growth_rate or 0)


def _mlp_dim(network, width):
    """Return the width of a block's MLP, which is proportional to that of the block."""
    return width * network.mlp_dim // network.hidden_dim
