"""Memory of a training step on one device, computed from the shapes of a ViT.

The formula counts the tensors that the backward pass of the layers in `keras_vit.layers`
needs. `docs/plan.md` compares it with the memory of compiled steps.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any

import keras

from keras_vit.kernels.attention import BLOCKS_FROM
from keras_vit.kernels.precision import is_half
from keras_vit.layers.mlp import GatedMLP

FLOAT32 = 4
# Tensors of tokens outside of the blocks when the backward pass starts: the embeddings,
# and the values and the gradient in the last norm.
OUTSIDE = 3


@dataclasses.dataclass(frozen=True)
class Network:
    """Sizes of a ViT that determine its activations.

    Attributes:
        pixels: numbers in an image.
        grid: number of patches.
        tokens: number of tokens, with the prefix tokens.
        patch: numbers in a patch.
        width: width of the tokens.
        heads: number of attention heads.
        hidden: width of the MLP after its activation.
        expanded: width of the MLP before its activation, twice as large with a gate.
        blocks: number of blocks.
        remat: the argument of the model.
        item: bytes of a number in activations.
        layer_scale: whether the branches are scaled.
        qk_norm: whether queries and keys are normalized.
        dropout: whether there is dropout after dense layers.
        plain_attention: whether the attention has a bias or dropout, and so the form that
            keeps whole matrices of logits.
        attention_dropout: whether there is dropout of the attention weights.
    """

    pixels: int
    grid: int
    tokens: int
    patch: int
    width: int
    heads: int
    hidden: int
    expanded: int
    blocks: int
    remat: bool | str
    item: int
    layer_scale: bool = False
    qk_norm: bool = False
    dropout: bool = False
    plain_attention: bool = False
    attention_dropout: bool = False


@dataclasses.dataclass(frozen=True)
class Branch:
    """Bytes that a branch of a block keeps for each image until its backward pass.

    Attributes:
        whole: bytes of tensors that devices of the axis `model` do not share.
        split: bytes of heads and hidden units, which they do share.
    """

    whole: float
    split: float

    def on_each(self, parts: int) -> float:
        """Return the bytes on one of `parts` devices that share the layers."""
        return self.whole + self.split / parts


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of a training step on one device.

    Attributes:
        weights: weights of the model.
        optimizer: moments, averages and accumulated gradients.
        images: the batch.
        gradients: gradients that exist together at the end of the backward pass.
        copies: weights in the compute dtype, or gathered from other devices.
        activations: tensors kept for the backward pass, at its start.
        temporary: largest tensors that exist only during the backward pass of a block.
        peak: largest sum of what exists at the same time.
    """

    weights: float
    optimizer: float
    images: float
    gradients: float
    copies: float
    activations: float
    temporary: float
    peak: float


def describe(model: Any, platform: str) -> Network:
    """Return the sizes of a ViT.

    Args:
        model: a `keras_vit.ViT`, or the result of `abstract_model`.
        platform: `"gpu"`, `"tpu"` or `"cpu"`.

    Raises:
        ValueError: the model has parts whose memory the formula does not know.

    Example:

    >>> import keras_vit
    >>> from keras_vit.training.step_memory import describe
    >>> model = keras_vit.ViTTi16(input_shape=(32, 32, 3), classes=10, num_layers=2)
    >>> describe(model, "gpu").tokens
    5
    """
    config = model.resolved_config()
    block = model.get_layer("block_0")
    _check_parts(config, block)
    # XLA computes in float32 on a CPU.
    half = platform != "cpu" and is_half(model.dtype_policy.compute_dtype)
    gated = isinstance(block.mlp, GatedMLP)
    positions = block.attention.attention_positions()
    grid = math.prod(model.grid_shape)
    bias = getattr(positions, "computes_logits", False)
    return Network(
        pixels=math.prod(config["input_shape"]),
        grid=grid,
        tokens=grid + model.num_prefix_tokens,
        patch=config["patch_size"] ** 2 * config["input_shape"][2],
        width=config["hidden_dim"],
        heads=config["num_heads"],
        hidden=config["mlp_dim"],
        expanded=config["mlp_dim"] * (2 if gated else 1),
        blocks=config["num_layers"],
        remat="block" if config["remat"] is True else config["remat"],
        item=2 if half else FLOAT32,
        layer_scale=config["layer_scale"] is not None,
        qk_norm=block.attention.query_norm is not None,
        dropout=config["dropout_rate"] > 0,
        plain_attention=bias or config["attention_dropout_rate"] > 0,
        attention_dropout=config["attention_dropout_rate"] > 0,
    )


def _check_parts(config, block):
    expected = {
        "stem": (config["stem"], None),
        "token_reduction": (config["token_reduction"], None),
        "block": (config["block"], "pre_norm"),
        "mlp inner_norm": (block.mlp.has_inner_norm, False),
        "attention inner_norm": (block.attention.inner_norm is not None, False),
    }
    for name, (value, needed) in expected.items():
        if value != needed:
            shown = type(value).__name__ if isinstance(value, dict) else repr(value)
            raise ValueError(
                f"The memory of a step is known for ViTs with {name}={needed!r} only; "
                f"this one has {name}={shown}. Measure it instead: keras-vit pretrain "
                "CONFIG --dry-run."
            )


def branches(network: Network, platform: str) -> tuple[Branch, Branch]:
    """Return the bytes that the attention and the MLP of a block keep for each image.

    Args:
        network: sizes of the ViT.
        platform: `"gpu"`, `"tpu"` or `"cpu"`.
    """
    n, cpu = network, platform == "cpu"
    tokens = n.tokens * n.width * n.item
    # The input of the dense layer, and of LayerScale. On a CPU, XLA also keeps the
    # normalized values, which its library YNNPACK computes together with their sums.
    norm = tokens * (1 + cpu + n.layer_scale)
    # XLA keeps the random bits of dropout instead of the mask, on a CPU those of both
    # halves of the generator.
    bits = FLOAT32 * (1 + cpu)
    masks = n.tokens * n.dropout * bits
    # Queries, keys, values and the result.
    heads = tokens * (4 + 2 * n.qk_norm)
    rows = 2.0 * n.heads * n.tokens * FLOAT32
    fused = platform == "gpu" and n.item < FLOAT32 and not n.plain_attention
    if not fused:
        heads += tokens  # The result before it is divided by the sum of each row.
        matrix = n.heads * n.tokens**2
        if n.plain_attention:
            # The weights in float32, and in the dtype of the values after dropout.
            rows += matrix * (FLOAT32 + n.item + bits * n.attention_dropout)
        elif n.tokens < BLOCKS_FROM:
            rows += matrix * FLOAT32
    hidden = n.tokens * n.expanded * n.item
    if not cpu or n.dropout:
        # Other platforms keep the hidden layer after the activation, too, and a gate
        # with its activation.
        hidden += n.tokens * (2 * n.expanded - n.hidden) * n.item
    attention = Branch(norm + masks * n.width, heads + rows)
    return attention, Branch(norm + masks * n.width, hidden + masks * n.hidden)


def activations(
    network: Network, platform: str, images: float, parts: int = 1
) -> tuple[float, float, float]:
    """Return the bytes of activations at both ends of the backward pass.

    Args:
        network: sizes of the ViT.
        platform: `"gpu"`, `"tpu"` or `"cpu"`.
        images: images on the device.
        parts: number of devices that share each layer.

    Returns:
        The bytes that are kept for the backward pass; the largest bytes beside them
        while the backward pass is in the last block; and the sum of both while it is in
        the first block.
    """
    n = network
    attention, mlp = (branch.on_each(parts) for branch in branches(n, platform))
    tokens = n.tokens * n.width * n.item
    # The inputs of both branches. The second is computed again with the whole block.
    kept: float = tokens if n.remat == "block" else 2 * tokens
    kept += attention * (n.remat not in ("block", "attention"))
    kept += mlp * (n.remat not in ("block", "mlp"))
    whole = tokens + attention + mlp
    again = {"block": whole, "mlp": mlp, False: 0.0, "attention": 0.0}[n.remat]
    # The gradients of the hidden layer and of the values before the activation.
    temporary = again + n.tokens * (n.hidden + n.expanded) * n.item / parts
    outside = OUTSIDE * tokens + n.grid * n.patch * n.item
    return (
        images * (n.blocks * kept + outside),
        images * temporary,
        images * (kept + temporary + n.grid * n.patch * n.item),
    )


def step_memory(
    network: Network,
    platform: str,
    images: float,
    weights: float,
    optimizer: float,
    copies: float,
    parts: int = 1,
    gradients: float | None = None,
) -> Memory:
    """Return the bytes of a training step on one device.

    Args:
        network: sizes of the ViT.
        platform: `"gpu"`, `"tpu"` or `"cpu"`.
        images: images on the device.
        weights: bytes of the weights on the device.
        optimizer: bytes of the optimizer's variables on the device.
        copies: bytes of copies of the weights on the device.
        parts: number of devices that share each layer.
        gradients: bytes of the gradients that exist at the same time; None for as many
            as the weights. XLA updates each weight when its gradient is there, unless
            the gradients are clipped by their common norm or accumulated.

    Example:

    >>> import keras_vit
    >>> from keras_vit.training.step_memory import describe, step_memory
    >>> model = keras_vit.ViTTi16(input_shape=(32, 32, 3), classes=10, num_layers=2)
    >>> weights = 4 * model.count_params()
    >>> memory = step_memory(describe(model, "cpu"), "cpu", 8, weights, 2 * weights, 0)
    >>> memory.peak > memory.weights + memory.optimizer + memory.gradients
    True
    """
    gradients = weights if gradients is None else gradients
    kept, temporary, first_block = activations(network, platform, images, parts)
    state = weights + optimizer + images * network.pixels * FLOAT32
    return Memory(
        weights=weights,
        optimizer=optimizer,
        images=images * network.pixels * FLOAT32,
        gradients=gradients,
        copies=copies,
        activations=kept,
        temporary=temporary,
        peak=state + copies + max(kept + temporary, first_block + gradients),
    )


def bytes_of(
    variables: Iterable[keras.Variable],
    parts: Callable[[keras.Variable], int] = lambda variable: 1,
) -> float:
    """Return the bytes of variables on one device.

    Args:
        variables: variables, with or without values.
        parts: function from a variable to the number of devices that share it.
    """
    return sum(
        math.prod(variable.shape) * _item(variable.dtype) / parts(variable)
        for variable in variables
    )


def _item(dtype):
    """Return the bytes of a number."""
    name = keras.backend.standardize_dtype(dtype)
    return {"bool": 1}.get(name) or int("".join(filter(str.isdigit, name))) // 8
