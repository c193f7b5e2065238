"""Tokens-to-Token ViT."""

from collections.abc import Sequence
from typing import Any

import keras

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
from keras_vit.models.vit import ViT
from keras_vit.weights.t2t import PREPROCESSING

_BLOCKS = {
    "plain": TransformerBlock,
    "se": SqueezeExcitationBlock,
    "ghost": GhostBlock,
    "dense": DenseBlock,
}
# What T2TViT settles, of ViT's arguments.
_SETTLED = ("patch_size", "stem")


@keras.saving.register_keras_serializable(package="keras_vit")
class T2TViT(ViT):
    """Tokens-to-Token ViT: a `ViT` that merges neighbouring tokens into few.

    Three overlapping splits with attention between them (`TokensToToken`) take the place
    of patches; a deep and narrow Transformer follows. The named variants (`T2TViT14`,
    ...) fill in the sizes.

    Input and output as for `ViT`; `model.preprocessor` has ImageNet's mean and standard
    deviation, and crops 0.9 of a bicubically resized image.

    Args:
        input_shape: `(height, width, channels)` of the images, multiples of 16; may be
            rectangular.
        hidden_dim: int, width of the tokens; of the first block where it is dense.
        num_layers: int, number of blocks; with `backbone="dense"` a sequence of ints, the
            blocks of each stage. Between stages a dense layer halves the width.
        num_heads: int, attention heads; must divide `hidden_dim` (and the width of every
            block where it is dense).
        mlp_dim: int, width of the MLPs; where it is dense, of the first, and the others'
            in proportion to their block's width.
        tokens: what is between the splits: `"performer"`, `"transformer"`, or
            `"convolution"` (for comparison).
        token_dim: int, width of the tokens between the splits.
        token_dropout_rate: dropout between the splits; None for the original's: 0.1 in
            Performers, else none.
        backbone: `"plain"`, `"se"` (squeeze and excitation), `"ghost"` (cheap copies) or
            `"dense"` (dense connections).
        growth_rate: None, or with `backbone="dense"` an int, channels that a block adds.
        positions: as for `ViT`; `"sincos_1d"` is the original's.
        qkv_bias: bool, whether q, k and v of the blocks have biases.
        activation: of the MLPs, those between the splits too; see `ViT`.
        layer_norm_epsilon: float, added to the variance.
        **kwargs: as for `ViT`: `classes`, `include_top`, `pooling`, `dropout_rate`,
            `stochastic_depth_rate`, `remat` (of the layers between the splits too),
            `weights`, `head`, `preprocessor`, `name`, `dtype`, ...; all but
            `patch_size` and `stem`.

    Raises:
        TypeError: `patch_size` or `stem` is given.
        ValueError: as for `ViT`; a size that the strides of the splits do not divide gets
            a message with the nearest that they do.

    Example:

    >>> import keras, keras_vit
    >>> model = keras_vit.T2TViT(
    ...     input_shape=(32, 48, 3), hidden_dim=48, num_layers=2, num_heads=3, mlp_dim=96,
    ...     token_dim=16, classes=10,
    ... )
    >>> pixels = keras.random.uniform((2, 32, 48, 3), maxval=255)
    >>> tuple(model(model.preprocessor(pixels)).shape)
    (2, 10)

    Source: T2T-ViT (arXiv:2101.11986). Deviations, which only training meets: weights
    start as ViT's do, and not all from a normal distribution of 0.02; stochastic depth
    grows from block to block in the dense backbone too, and not from stage to stage.
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
        for argument in set(_SETTLED) & set(kwargs):
            raise TypeError(
                f"T2TViT has no argument {argument!r}: `tokens` and `token_dim` say what "
                "becomes of the image."
            )
        if backbone not in _BLOCKS:
            raise ValueError(
                f"Unknown backbone {backbone!r}; choose one of "
                f"{', '.join(map(repr, _BLOCKS))}."
            )
        stages = _stages(backbone, num_layers, growth_rate)
        self._stages = stages
        self._own_config: dict[str, Any] = {
            "num_layers": stages if backbone == "dense" else num_layers,
            "tokens": tokens,
            "token_dim": token_dim,
            "token_dropout_rate": token_dropout_rate,
            "backbone": backbone,
            "growth_rate": growth_rate,
        }
        super().__init__(
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
            stem=TokensToToken(
                tokens,
                token_dim,
                activation=activation,
                layer_norm_epsilon=layer_norm_epsilon,
                dropout_rate=token_dropout_rate,
                remat=kwargs.get("remat", False),
            ),
            **kwargs,
        )

    def _complete(self, config):
        config |= self._own_config
        self._sizes = _block_sizes(self._stages, **config)
        for width, mlp_dim in self._sizes:
            head_dim(width, config["num_heads"])
            if config["backbone"] == "ghost":
                ghost_copies(width, mlp_dim)

    def _block(self, tokens, index, **arguments):
        config = self._own_config
        width, mlp_dim = self._sizes[index]
        if config["backbone"] == "dense":
            arguments["growth_rate"] = config["growth_rate"]
            if width < tokens.shape[-1]:
                tokens = Dense(
                    width,
                    activation=get_activation(arguments["activation"]),
                    dtype=arguments["dtype"],
                    name=f"transition_{index}",
                )(tokens)
        block = _BLOCKS[config["backbone"]]
        return block(**{**arguments, "mlp_dim": mlp_dim})(tokens)

    def get_config(self):
        config = super().get_config()
        return {key: value for key, value in config.items() if key not in _SETTLED}


def _stages(backbone, num_layers, growth_rate):
    """The numbers of blocks between transitions; raises where arguments do not match."""
    dense = backbone == "dense"
    stages = tuple(num_layers) if isinstance(num_layers, Sequence) else (num_layers,)
    if (
        isinstance(num_layers, Sequence) != dense
        or not stages
        or not all(isinstance(depth, int) and depth > 0 for depth in stages)
    ):
        wanted = "positive ints, the blocks of each stage" if dense else "a positive int"
        raise ValueError(
            f"With backbone={backbone!r} num_layers must be {wanted}; received "
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


def _block_sizes(stages, hidden_dim, mlp_dim, growth_rate, **others):
    """Widths of each block and of its MLP."""
    sizes, width = [], hidden_dim
    for stage, depth in enumerate(stages):
        if stage:
            width //= 2  # The transition's.
        for _ in range(depth):
            sizes.append((width, width * mlp_dim // hidden_dim))
            width += growth_rate or 0
    return sizes
