"""Mapping from the tensors of a checkpoint to the weights of a model."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from keras_vit.layers.attention import SelfAttention
from keras_vit.layers.base import restored
from keras_vit.layers.heads import AttentionPooling
from keras_vit.layers.mlp import GatedMLP, make_mlp
from keras_vit.layers.norms import RMSNorm, make_norm
from keras_vit.layers.relative_positions import (
    RelativePositionBias,
    RelativePositionMLP,
)
from keras_vit.layers.rotary import MixedRotaryPositions

POSITIONS = "patch_encoder/positions/embedding"
PROJECTION = "patch_encoder/projection/kernel"
STEM_ROOT = "stem/root/kernel"
# End of the paths of tables of relative positions.
BIAS_TABLE = "attention/relative_bias/table"

HEAD_PATHS = ("pre_logits/", "classifier/", "distillation_classifier/")


class Piece(NamedTuple):
    """Mapping from tensors of a file to one weight of the model.

    Attributes:
        path: str, path of the weight.
        names: tuple of tensor names. Several tensors are concatenated along the last
            axis; None stands for zeros, such as the biases of keys that a file lacks.
            Without any tensor the weight is zero, which serves for a bias that the
            network in the file lacks.
        shape: shape of each tensor.
        stored_shape: shape of the part of the weight that each tensor becomes.
        axes: permutation of the axes of each tensor, or None.
    """

    path: str
    names: tuple[str | None, ...]
    shape: tuple[int, ...]
    stored_shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None

    @property
    def tensors(self) -> list[str]:
        """Names of the tensors, without the zeros."""
        return [name for name in self.names if name is not None]

    def read(self, read: Callable[[str], np.ndarray]) -> np.ndarray:
        """Read the tensors and return the weight as a float32 array.

        Args:
            read: function from the name of a tensor to its array.
        """
        if not self.names:
            return np.zeros(self.stored_shape, "float32")
        zeros = np.zeros(self.shape, "float32")
        arrays = [
            read(name).reshape(self.shape) if name else zeros for name in self.names
        ]
        if self.axes is not None:
            arrays = [array.transpose(self.axes) for array in arrays]
        arrays = [array.reshape(self.stored_shape) for array in arrays]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)

    def write(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """Return the tensors from which `read` returns `array`.

        Args:
            array: the weight.

        Returns:
            Dict from the name of a tensor to its array.

        Raises:
            ValueError: if a part of the weight that has no tensor is not zero.
        """
        parts = np.split(array, len(self.names), axis=-1) if self.names else [array]
        axes = self.axes or tuple(range(len(self.shape)))
        permuted = tuple(self.shape[axis] for axis in axes)
        tensors = {}
        for name, part in zip(self.names or (None,), parts, strict=True):
            if name is not None:
                tensor = part.reshape(permuted).transpose(np.argsort(axes))
                tensors[name] = np.ascontiguousarray(tensor)
            elif np.any(part):
                raise ValueError(
                    f"The weight {self.path} must be zero, because the format has no "
                    f"tensor for it; its values go up to {np.max(np.abs(part)):.3g}."
                )
        return tensors


class Pieces(list[Piece]):
    """List of `Piece`s with a method for each kind of layer, in the layout of Flax.

    Kernels are `(in, out)`, where `in` or `out` may be several axes: those of a patch, or
    the heads of attention and their width.
    """

    # Endings of the names of a kernel, its bias, and the gamma and beta of a norm.
    leaves = ("/kernel", "/bias", "/scale", "/bias")

    def plain(self, name, path, shape, stored_shape=None):
        """Add a tensor that differs from the weight at most in its shape."""
        self.append(Piece(path, (name,), shape, stored_shape or shape))

    def norm(self, name, path, width, kind="layer"):
        """Add a norm; `kind` is the argument `norm` of the model."""
        norm = make_norm(kind, 1e-6)
        if norm.affine:
            self.plain(name + self.leaves[2], f"{path}/gamma", (width,))
        if norm.affine and not isinstance(norm, RMSNorm):
            self.plain(name + self.leaves[3], f"{path}/beta", (width,))

    def dense(self, names, path, inputs, outputs, bias=True):
        """Add a dense layer, or several that are joined in the order of their names."""
        names = (names,) if isinstance(names, str) else names
        inputs, outputs = (x if isinstance(x, tuple) else (x,) for x in (inputs, outputs))
        kernels, biases = (tuple(n + leaf for n in names) for leaf in self.leaves[:2])
        self.append(self.kernel(f"{path}/kernel", kernels, inputs, outputs))
        if bias:
            self.append(self.bias(f"{path}/bias", biases, outputs))

    def conv(self, name, path, shape):
        """Add a convolution without bias, whose kernel is `(h, w, in, out)`."""
        self.plain(name + self.leaves[0], f"{path}/kernel", shape)

    def kernel(self, path, names, inputs, outputs):
        """Return the piece for the kernels of dense layers."""
        stored = math.prod(inputs), math.prod(outputs)
        return Piece(path, names, (*inputs, *outputs), stored)

    def bias(self, path, names, outputs):
        """Return the piece for the biases of dense layers."""
        return Piece(path, names, outputs, (math.prod(outputs),))


class TorchPieces(Pieces):
    """List of `Piece`s in the layout of PyTorch: `(out, in)`, channels first."""

    leaves = (".weight", ".bias", ".weight", ".bias")

    def conv(self, name, path, shape):
        h, w, i, o = shape
        names = (name + self.leaves[0],)
        self.append(Piece(f"{path}/kernel", names, (o, i, h, w), shape, (2, 3, 1, 0)))

    def kernel(self, path, names, inputs, outputs):
        stored = math.prod(inputs), math.prod(outputs)
        if len(inputs) == 3:  # A `Conv2d` whose stride equals its kernel size.
            rows, columns, channels = inputs
            shape = (*outputs, channels, rows, columns)
            return Piece(path, names, shape, stored, (2, 3, 1, 0))
        return Piece(path, names, stored[::-1], stored, (1, 0))

    def bias(self, path, names, outputs):
        return super().bias(path, names, (math.prod(outputs),))


def add_vit(
    pieces: Pieces,
    names: dict[str, Any],
    block_name: Callable[[int], str],
    config: dict[str, Any],
) -> None:
    """Add the tensors of a ViT, except for stem and head, in the order of the data flow.

    Args:
        pieces: the list to add to, in the layout of the file.
        names: dict from a layer or weight to its name in the file. `"block"` and
            `"pooling"` are dicts from the layers of a block and of attention pooling.
            Several layers of the file that are joined in the model have a tuple of names:
            `"attention/qkv"` of q, k and v, `"mlp/expand"` of a gated MLP of the gate and
            the hidden layer. `"attention/qkv/bias"` is used for `qkv_bias="qv"`. Layers
            that the model does not have are ignored.
        block_name: function from the index of a block to the prefix of its names.
        config: dict, as for `keras_vit.weights.source.Source.pieces`.
    """
    d, norm = config["hidden_dim"], config["norm"]
    p, channels = config["patch_size"], config["input_shape"][-1]
    pieces.dense(
        names["patches"],
        "patch_encoder/projection",
        (p, p, channels),
        d,
        config["embedding_norm"] != "tokens",
    )
    if config["embedding_norm"] is not None:
        pieces.norm(names["embedding_norm"], "patch_encoder/norm", d, norm)
    for token in ("class_token", "distillation_token"):
        if config[token]:
            pieces.plain(names[token], f"patch_encoder/{token}", (1, 1, d))
    if config["added_positions"] == "learned":
        pieces.plain(names["positions"], POSITIONS, (1, config["position_rows"], d))
    if config["registers"]:
        shape = (1, config["registers"], d)
        pieces.plain(names["registers"], "patch_encoder/registers", shape)
    add = _block_adder(pieces, config)
    for i in range(config["num_layers"]):
        for layer, parts in names["block"].items():
            add(block_name(i), f"block_{i}", layer, parts)
    if config["final_norm"] is not None:
        pieces.norm(names["norm"], "norm", d, norm)
    if attention_pooling(config) is not None:
        pieces.plain(names["probe"], "pooling/probe", (1, 1, d))
        for layer, parts in names["pooling"].items():
            add("", "pooling", layer, parts)


def _block_adder(pieces, config):
    """Return a function that adds a layer of a block or of attention pooling.

    It takes the prefix of the names in the file, the path of the block, the path of the
    layer in the block, and the name or names of the layer in the file. Layers that the
    model does not have are skipped.
    """
    d, heads, mlp_dim = config["hidden_dim"], config["num_heads"], config["mlp_dim"]
    mlp = make_mlp(config["mlp"], config["activation"])
    attention = restored(config["attention"]) or SelfAttention()
    hidden = (1 + isinstance(mlp, GatedMLP)) * mlp_dim
    head = (heads, d // heads)
    blocks = {
        "attention/qkv": (d, (3 * heads, d // heads), config["qkv_bias"] is True),
        "attention/projection": (head, d, attention.use_projection_bias),
        "mlp/expand": (d, hidden, mlp.use_bias),
        "mlp/contract": (mlp_dim, d, mlp.use_bias),
    }
    if isinstance(config["attention_positions"], RelativePositionMLP):
        width = config["attention_positions"].hidden_dim
        blocks["attention/relative_mlp/expand"] = (2, width, True)
        blocks["attention/relative_mlp/contract"] = (width, heads, True)
    pooling: dict[str, tuple[Any, Any, bool]] = {}
    if (probe := attention_pooling(config)) is not None:
        pooling["key_value"] = (d, (2 * heads, d // heads), probe.use_qkv_bias)
        pooling["projection"] = (head, d, True)
        if probe.use_query_projection:
            pooling["query"] = (d, head, probe.use_qkv_bias)
        if probe.mlp_dim is not None:
            pooling["mlp/expand"] = (d, probe.mlp_dim, True)
            pooling["mlp/contract"] = (probe.mlp_dim, d, True)
    norms = {"attention_norm": d}
    if config["block"] != "parallel":
        norms["mlp_norm"] = d
    if probe is not None and probe.mlp_dim is not None:
        norms["norm"] = d
    if attention.qk_norm:
        norms |= dict.fromkeys(("attention/query_norm", "attention/key_norm"), d // heads)
    if attention.has_inner_norm:
        norms["attention/inner_norm"] = d
    if mlp.has_inner_norm:
        norms["mlp/inner_norm"] = mlp_dim
    positions = _position_weights(config)
    scales: tuple[str, ...] = ()
    if config["layer_scale"] is not None:
        scales = ("attention_scale", "mlp_scale")[: 1 + (config["block"] != "parallel")]

    def add(prefix, path, layer, parts):
        names = (parts,) if isinstance(parts, str) else parts
        names = tuple(name and prefix + name for name in names)
        dense = pooling if path == "pooling" else blocks
        if layer in norms:
            pieces.norm(names[0], f"{path}/{layer}", norms[layer], config["norm"])
        elif layer in dense:
            inputs, outputs, bias = dense[layer]
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            outputs = (outputs[0] // len(names), *outputs[1:])
            pieces.dense(names, f"{path}/{layer}", inputs, outputs, bias)
        elif layer == "attention/qkv/bias" and config["qkv_bias"] == "qv":
            pieces.append(Piece(f"{path}/{layer}", names, (d,), (d,)))
        elif layer in positions:
            pieces.plain(names[0], f"{path}/{layer}", positions[layer])
        elif layer in scales:
            pieces.plain(names[0], f"{path}/{layer}/gamma", (d,))

    return add


def attention_pooling(config: dict[str, Any]) -> AttentionPooling | None:
    """Return the `AttentionPooling` of a model, not built, or None.

    Args:
        config: dict, the model's `resolved_config()`.
    """
    if config["pooling"] == "map":
        return AttentionPooling(
            config["num_heads"],
            config["mlp_dim"],
            config["num_prefix_tokens"],
            activation=config["activation"],
            layer_norm_epsilon=config["layer_norm_epsilon"],
            norm=config["norm"],
        )
    pooling = restored(config["pooling"])
    return pooling if isinstance(pooling, AttentionPooling) else None


def _position_weights(config):
    """Return the shapes of the weights of positions inside of a block, by path."""
    d, heads = config["hidden_dim"], config["num_heads"]
    positions = config["attention_positions"]
    if isinstance(positions, MixedRotaryPositions):
        return {"attention/rotary_positions/frequencies": (2, heads, d // heads // 2)}
    if isinstance(positions, RelativePositionBias):
        gh, gw = config["table_grid"]
        rows = (2 * gh - 1) * (2 * gw - 1) + 3 * (config["num_prefix_tokens"] > 0)
        return {BIAS_TABLE: (rows, heads)}
    return {}


def add_stem(
    pieces: Pieces, names: dict[str, Any], config: dict[str, Any], epsilons: str
) -> dict[str, Any]:
    """Add the tensors of a `ResNetStem`, in the order of the data flow.

    Args:
        pieces: the list to add to, in the layout of the file.
        names: dict from a layer of the stem, or of its units, to its name in the file.
            `"unit"` is a function from the indices of a stage and a unit to the prefix of
            the unit's names.
        config: dict, as for `keras_vit.weights.source.Source.pieces`.
        epsilons: str, the stem's argument for files of this source.

    Returns:
        `config` with the channels of the feature map in place of those of the image.

    Raises:
        ValueError: if the stem has other epsilons, which change its outputs.
    """
    stem, (*sides, channels) = config["stem"], config["input_shape"]
    if stem.epsilons != epsilons:
        raise ValueError(
            f"The stem has epsilons={stem.epsilons!r}, but networks of this format have "
            f"{epsilons!r} and would give other outputs. Use "
            f"ResNetStem(epsilons={epsilons!r})."
        )
    width = stem.width
    pieces.conv(names["root"], "stem/root", (7, 7, channels, width))
    pieces.norm(names["root_norm"], "stem/root_norm", width)
    channels = width
    for s, num_units in enumerate(stem.num_blocks):
        inner, outer = width * 2**s, width * 2**s * 4
        for u in range(num_units):
            layers = [
                ("conv_1", "norm_1", (1, 1, channels, inner)),
                ("conv_2", "norm_2", (3, 3, inner, inner)),
                ("conv_3", "norm_3", (1, 1, inner, outer)),
                ("projection", "projection_norm", (1, 1, channels, outer)),
            ]
            prefix, path = names["unit"](s, u), f"stem/stage_{s}/unit_{u}"
            for conv, norm, shape in layers[: 4 if u == 0 else 3]:
                pieces.conv(prefix + names[conv], f"{path}/{conv}", shape)
                pieces.norm(prefix + names[norm], f"{path}/{norm}", shape[-1])
            channels = outer
    return {**config, "input_shape": (*sides, channels)}
