"""Base class of the readers of transformers' vision models."""

import functools
import math
import os
from typing import Any, ClassVar, NamedTuple

from keras_vit.weights.parts import Split
from keras_vit.weights.pieces import POSITIONS, TorchPieces, add_vit
from keras_vit.weights.source import Source
from keras_vit.weights.tensor_file import read_json
from keras_vit.weights.timm import HEADS
from keras_vit.weights.transformers.config import unknown_fields
from keras_vit.weights.transformers.preprocessing import (
    read_preprocessor_config,
    read_size,
)

_PROBLEMS = {
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": None,
}
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_accurate": "gelu_tanh",
    **{name: name for name in ("relu", "relu6", "silu", "tanh", "sigmoid", "mish")},
    "swish": "silu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}


class BlockNames(NamedTuple):
    """Names of the tensors of a block; versions of transformers differ in them.

    Attributes:
        prefix: str, prefix of the names, in which `{}` stands for the index of the block.
        layers: dict from the layers of a block to their names after the prefix.
    """

    prefix: str
    layers: dict[str, Any]

    def first(self, *layers: str) -> list[str]:
        """Return the names of layers in the first block; the first of joined ones."""
        names = (self.layers[layer] for layer in layers)
        first = (name if isinstance(name, str) else name[0] for name in names)
        return [self.prefix.format(0) + name for name in first]


class TransformersSource(Source):
    """Base class of checkpoint sources for transformers' vision models.

    A subclass holds the tables of a family of models. The `config.json` beside the file
    determines the number of heads, the epsilon of the norms and the activation; the
    class attribute `defaults` holds the values of transformers for missing entries.
    `preprocessor_config.json` determines the preprocessing.

    Args:
        file: the opened file.
        config: dict, the content of config.json, or its part about the vision model.
        around: dict, the content of config.json.

    Raises:
        ValueError: if config.json describes a network that keras_vit does not support.
    """

    # Values of `model_type` in config.json.
    model_types: ClassVar[tuple[str, ...]] = ()
    # Attributes under which classes with a head hold the network.
    prefixes: ClassVar[tuple[str, ...]] = ()
    # Prefix of the layer that transforms the class token for other tasks, or None.
    pooler: ClassVar[str | None] = "pooler."
    # Prefixes of tensors that only training or other tasks use.
    ignored: ClassVar[tuple[str, ...]] = ()
    names: ClassVar[dict[str, Any]] = {}
    # Newest names last; the first that fit the file are used.
    blocks: ClassVar[tuple[BlockNames, ...]] = ()
    # Weights whose tensors lack the leading axis of size 1, with their rank in the file.
    ranks: ClassVar[dict[str, int]] = {}
    # Packed tensors, with the names of their parts and the relative sizes of the parts.
    splits: ClassVar[dict[str, dict[str, int]]] = {}
    # Settings in config.json, apart from those that `_stated` compares with the tensors.
    defaults: ClassVar[dict[str, Any]] = {}
    # Arguments that a file without config.json leaves open, with the usual values.
    open_arguments: dict[str, tuple] = {}  # noqa: RUF012
    # Preprocessing of all published files of the family, None if they differ.
    usual_pixels: ClassVar[dict[str, Any] | None] = None
    # Name of the configuration, for error messages.
    config_name = "config.json"
    # Number of attention heads of a network whose config.json does not state it.
    default_heads = 12
    # Whether the network always has a table of positions.
    needs_positions = True
    # Whether the model resizes its positions if images have another size.
    interpolates = False
    # Whether transformers takes every grid of positions for a square one.
    is_square = False

    head_names: tuple[str, ...] = ("classifier.",)
    published_heads = HEADS
    resize = "bicubic"
    possible = {  # noqa: RUF012
        "positions": ("learned",),
        "representation_size": (None,),
        "final_norm": ("before_pooling",),
        "stem": (None,),
    }

    def __init__(self, file, config, around):
        super().__init__(Split(file, self.splits))
        self._prefix = ""
        for prefix in self.prefixes:
            if f"{prefix}{self.names['patches']}.weight" in self.shapes:
                self._prefix = prefix
        self._block = self._find_block()
        # The pooler is a layer for other tasks. It counts as part of the head, and is
        # ignored if the file has a classifier, which does not use it.
        pooler = () if self.pooler is None else (self._prefix + self.pooler,)
        self.head_names = (*type(self).head_names, *pooler)
        ignored = (*self.ignored, *(pooler if self.num_classes() else ()))
        ignored += tuple(self._prefix + name for name in ignored)
        self.shapes = {n: s for n, s in self.shapes.items() if not n.startswith(ignored)}
        self._has_config = bool(around)
        if "model_type" in around:
            self.kind = f"{self.kind} (model_type={around['model_type']!r})"  # type: ignore[misc]
        self._around, self._config = around, {**self.defaults, **config}
        understood = {*self._stated_fields(), *self.defaults}
        other = unknown_fields(config, understood)
        if other:
            raise self._other_network(other)
        self.num_heads = config.get("num_attention_heads")
        if around and self.num_heads is None:
            self.num_heads = self.default_heads
        self.layer_norm_epsilon = self._config["layer_norm_eps"]
        activation = self._config["hidden_act"]
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"The config.json beside {self.path} has hidden_act={activation!r}, "
                f"which keras_vit does not have; it has {', '.join(ACTIVATIONS)}."
            )
        self.activation = ACTIVATIONS[activation]
        if config.get("image_size") is not None:
            try:
                self.image_size = read_size(config["image_size"])
            except ValueError as error:
                raise ValueError(
                    f"The image_size in the config.json beside {self.path} is not "
                    f"understood: {error}. Correct it."
                ) from None
            if self.is_square and len(set(self.image_size)) > 1:
                raise self._other_network([f"image_size={self.image_size!r}"])

    def _find_block(self):
        """Return the names of the blocks, with the complete prefix."""
        # transformers 5 saves the blocks of ViT-MSN with a classifier without a prefix.
        for prefix in (self._prefix, ""):
            for names in self.blocks:
                found = BlockNames(prefix + names.prefix, names.layers)
                layers = ("attention/projection", "mlp/expand")
                if all(f"{x}.weight" in self.shapes for x in found.first(*layers)):
                    return found
        return BlockNames(self._prefix + self.blocks[-1].prefix, self.blocks[-1].layers)

    def _other_network(self, what):
        return ValueError(
            f"The {self.config_name} beside {self.path} describes a network that "
            f"keras_vit does not have, or does not know ({', '.join(what)}). Its tensors "
            "might load but give other outputs."
        )

    @functools.cached_property
    def preprocessing(self):
        """Arguments of `Preprocessor` equivalent to `preprocessor_config.json`."""
        preprocessing, _ = self._preprocessing
        return preprocessing or self._published_pixels() or {}

    def states_pixels(self) -> bool:
        """Return True if a file in the source's format states its preprocessing."""
        return bool(self._preprocessing[0])

    def _published_pixels(self):
        """Return the preprocessing of published files like this, None if unknown."""
        return self.usual_pixels

    @functools.cached_property
    def _preprocessing(self):
        """Arguments of `Preprocessor`, and the image size that they give, or None."""
        directory, name = os.path.dirname(self.path), "preprocessor_config.json"
        config = read_json(directory, name)
        if not config:  # Since version 5, processors of images and texts are one file.
            name = "processor_config.json"
            config = read_json(directory, name).get("image_processor") or {}
        path = os.path.join(directory, name)
        if not config:
            return {}, None
        try:
            preprocessing, other, size = read_preprocessor_config(
                config, self._around.get("model_type")
            )
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise ValueError(
                f"{path} is not understood ({type(error).__name__}: {error}). Pass "
                "preprocessor=keras_vit.layers.Preprocessor(...) instead."
            ) from None
        if other:
            raise self.not_honored(path, other)
        return preprocessing, size

    def _sized(self, overrides, config):
        """Return the arguments with the image size of the preprocessor, if it differs.

        Raises:
            ValueError: if the preprocessor's image size is not the network's, and the
                network does not resize its positions by itself.
        """
        input_shape = config.get("input_shape")
        given = {key for key, value in overrides.items() if value is not None}
        if input_shape is None or given & {"input_shape", "preprocessor"}:
            return config
        _, size = self._preprocessing
        if size is None or size == input_shape[:2]:
            return config
        height, width, channels = input_shape
        if self.interpolates:
            return {**config, "input_shape": (*size, channels)}
        raise ValueError(
            f"The preprocessor_config.json beside {self.path} makes images of "
            f"{size[0]}x{size[1]} pixels, but the network takes {height}x{width}. Pass "
            f"input_shape={(*size, channels)} to resize the network's positions, or "
            f"input_shape={input_shape} to resize images to what the network takes."
        )

    def _labels(self):
        return self._around.get("id2label")

    def _classifier_activation(self, overrides, classes):
        problem = self._around.get("problem_type")
        if "classifier_activation" in overrides:
            return overrides["classifier_activation"]
        if problem in (None, "single_label_classification") and classes == 1:
            return None  # A softmax over one class is always 1.
        if problem is None:
            return "softmax"
        if problem not in _PROBLEMS:
            raise ValueError(
                f"The config.json beside {self.path} has problem_type={problem!r}, not "
                f"one of {', '.join(_PROBLEMS)}. Pass classifier_activation=..."
            )
        return _PROBLEMS[problem]

    def num_classes(self) -> int | None:
        """Return the number of classes, or None if the file has no classifier."""
        bias = self.file.shapes.get("classifier.bias")
        return bias[0] if bias else None

    # Names of tensors.

    def _kernel(self):
        return f"{self._prefix}{self.names['patches']}.weight"

    def _block_name(self, index):
        return self._block.prefix.format(index)

    def _in_block(self, layer, leaf="weight"):
        """Return the name of a tensor of the first block."""
        (name,) = self._block.first(layer)
        return f"{name}.{leaf}"

    def _shape(self, layer):
        """Return the shape of a tensor outside of the blocks, or None."""
        return self.shapes.get(self._prefix + self.names.get(layer, ""))

    def check(self):
        ranks = {self._kernel(): 4, self._in_block("mlp/contract"): 2}
        if self.needs_positions:
            positions = self._prefix + self.names["positions"]
            ranks[positions] = self.ranks.get(POSITIONS, 3)
        registers = self._prefix + self.names.get("registers", "registers")
        self.check_ranks(ranks, {f"{n}bias": 1 for n in self.head_names} | {registers: 3})

    def infer_config(self, overrides):
        shapes, kernel = self.shapes, self._kernel()
        width, classes = shapes[kernel][0], self.num_classes()
        scale = self._block.layers.get("attention_scale")
        registers = self._shape("registers")
        config: dict[str, Any] = {
            "patch_size": shapes[kernel][2],
            "hidden_dim": width,
            "num_layers": self._num_layers(),
            "num_heads": self.heads(overrides, width),
            "mlp_dim": shapes[self._in_block("mlp/contract")][1],
            "pooling": "token",
            "class_token": self._shape("class_token") is not None,
            "registers": registers[1] if registers else 0,
            "positions": "learned",
            # This is the initial value; the trained values come from the file.
            "layer_scale": 1e-5
            if scale and self._block_name(0) + scale in shapes
            else None,
            "qkv_bias": self._in_block("attention/qkv", "bias") in shapes,
            "activation": self.activation,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }
        config |= self._own_config(config)
        self._check_stated(config)
        self._ask_open(overrides)
        if classes is not None:
            config["classes"] = classes
            activation = self._classifier_activation(overrides, classes)
            config["classifier_activation"] = activation
        else:
            config["include_top"] = False
        if self._shape("positions") is not None:
            config |= self.square_input_shape(overrides)
        elif self.image_size is not None:
            config["input_shape"] = (*self.image_size, self.patches()[1])
        return self._sized(overrides, config)

    def _own_config(self, config):
        """Return the arguments in which a family differs from a plain ViT."""
        return {}

    def _num_layers(self):
        start, end = self._block.prefix.split("{}")
        end += self._block.layers["mlp_norm"] + ".weight"
        return sum(n.startswith(start) and n.endswith(end) for n in self.shapes)

    def _ask_open(self, overrides):
        """Raise a `ValueError` for an argument that only config.json states."""
        for argument, usual in self.open_arguments.items():
            if not self._has_config and overrides.get(argument) is None:
                raise ValueError(
                    f"No tensor in {self.path} shows {argument}, which is "
                    f"{' or '.join(map(repr, usual))} in published networks like this. "
                    f"Pass {argument}=..., or put the network's {self.config_name} "
                    "beside the file."
                )

    def _trained(self):
        trained = super()._trained()
        if not self._has_config:  # The values of the open arguments are only defaults.
            trained |= dict.fromkeys(self.open_arguments)
        return trained

    def _stated_fields(self):
        return (
            *("hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size"),
            *("num_channels", "intermediate_size", "head_dim", "pruned_heads"),
        )

    def _stated(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the settings of config.json that tensors show, with their values."""
        return {
            "hidden_size": config["hidden_dim"],
            "num_hidden_layers": config["num_layers"],
            "intermediate_size": config["mlp_dim"],
            "patch_size": config["patch_size"],
            "num_channels": self.patches()[1],
            "pruned_heads": {},
            "head_dim": config["hidden_dim"] // config["num_heads"],
        }

    def _check_stated(self, config):
        """Raise a `ValueError` if config.json contradicts the tensors."""
        wrong = [
            f"{name}={self._config[name]!r} (the tensors: {value!r})"
            for name, value in self._stated(config).items()
            if self._has_config and self._config.get(name, value) not in (value, None)
        ]
        if wrong:
            raise ValueError(
                f"The {self.config_name} beside {self.path} is of another network: "
                f"{', '.join(wrong)}. Put the {self.config_name} that was saved with "
                "these weights beside them."
            )

    def patches(self):
        _, channels, _, patch = self.shapes[self._kernel()]
        return patch, channels

    def num_position_rows(self):
        positions = self._shape("positions")
        return positions and positions[-2]

    def position_prefixes(self):
        return (int(self._shape("class_token") is not None),)

    def pieces(self, config):
        return self.network_pieces(config, self._prefix, self._block)

    @classmethod
    def network_pieces(
        cls, config: dict[str, Any], prefix: str, block: BlockNames
    ) -> TorchPieces:
        """Return the tensors of a network, under the names of one version.

        Args:
            config: dict, as for `Source.pieces`.
            prefix: str, one of `prefixes`, or an empty string.
            block: the names of the blocks, with the complete prefix.
        """
        pieces = _RankedPieces(cls.ranks)

        def prefixed(names):
            if isinstance(names, dict):
                return {key: prefixed(name) for key, name in names.items()}
            if isinstance(names, tuple):
                return tuple(prefix + name for name in names)
            return prefix + names

        names = {**prefixed(cls.layer_names(config)), "block": block.layers}
        add_vit(pieces, names, block.prefix.format, config)
        if config["include_top"]:
            cls.add_head(pieces, config)
        return pieces

    @classmethod
    def written_block(cls, config: dict[str, Any]) -> BlockNames:
        """Return the oldest names of a block, which every version of transformers loads.

        Args:
            config: dict, the model's `resolved_config()`.
        """
        return cls.blocks[0]

    @classmethod
    def layer_names(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Return the names outside of the blocks, without prefix, for a config."""
        return cls.names

    @classmethod
    def add_head(cls, pieces: TorchPieces, config: dict[str, Any]) -> None:
        """Add the tensors of the classifier."""
        width = config["hidden_dim"] * (2 if config["pooling"] == "token_gap" else 1)
        pieces.dense("classifier", "classifier", width, config["classes"])


class _RankedPieces(TorchPieces):
    """List of `Piece`s of a file in which some weights lack leading axes of size 1.

    Args:
        ranks: dict from the path of such a weight to its rank in the file.
    """

    def __init__(self, ranks):
        super().__init__()
        self._ranks = ranks

    def plain(self, name, path, shape, stored_shape=None):
        stored_shape = stored_shape or shape
        shape = shape[len(shape) - self._ranks.get(path, len(shape)) :]
        assert math.prod(shape) == math.prod(stored_shape)
        super().plain(name, path, shape, stored_shape)
