"""Base class of the readers of KerasHub's presets, and the reader of its ViT."""

import functools
import math
import os
from typing import Any, ClassVar

import numpy as np

from keras_vit.layers.preprocessor import RESIZES
from keras_vit.weights.pieces import POSITIONS, Pieces, add_vit
from keras_vit.weights.source import Source
from keras_vit.weights.tensor_file import read_json

_EMBEDDING = "layers/vi_t_patching_and_embedding"
_ENCODER = "layers/vi_t_encoder"
HEAD = "task/"
_NAMES = {
    "patches": f"{_EMBEDDING}/patch_embedding",
    "class_token": f"{_EMBEDDING}/vars/0",
    "positions": f"{_EMBEDDING}/position_embedding/vars/0",
    "block": {
        "attention_norm": "layer_norm_1",
        "attention/qkv": tuple(f"mha/{x}_dense" for x in ("query", "key", "value")),
        "attention/projection": "mha/output_dense",
        "mlp_norm": "layer_norm_2",
        "mlp/expand": "mlp/dense_1",
        "mlp/contract": "mlp/dense_2",
    },
    "norm": f"{_ENCODER}/layer_norm",
}
# Parts of a backbone that may lack a bias, with the layers of the model that they are.
_BIASES = {
    "patch": "patch_encoder/projection",
    "mha": "/attention/projection/",
    "proj": "/attention/projection/",
    "mlp": "/mlp/",
}
# Entries of an image converter that `Preprocessor` honors or that do not change pixels.
_CONVERTER = {
    *("scale", "offset", "interpolation", "antialias", "crop_to_aspect_ratio"),
    *("image_size", "name", "dtype", "trainable", "bounding_box_format", "data_format"),
}


class KerasHubSource(Source):
    """Checkpoint source for presets of KerasHub's `ViTBackbone`, with or without a head.

    Args:
        file: the opened file or files.
        backbone: dict, the config of the backbone.
        task: dict, the config of the classifier; empty if the preset has none.
    """

    kind = "KerasHub ViT"
    head_names = (HEAD,)
    resize = "bilinear"
    # Names of layers and weights; those of the blocks start with `block_name`.
    names: ClassVar[dict[str, Any]] = _NAMES
    # Entry of the backbone's config for the width of the MLPs.
    mlp_entry = "mlp_dim"
    # Number of axes of the table of positions.
    position_rank = 2
    # Whether the heads are an axis of the attention's kernels.
    heads_are_axis = True
    possible = {  # noqa: RUF012
        "pooling": ("token", "gap", None),
        "positions": ("learned",),
        "registers": (0,),
        "layer_scale": (None,),
        "final_norm": ("before_pooling",),
        "distillation_token": (False,),
        "stem": (None,),
    }

    def __init__(self, file, backbone, task):
        super().__init__(file)
        self._backbone, self._task = backbone, task
        self.num_heads = backbone["num_heads"]
        self.layer_norm_epsilon = backbone.get("layer_norm_epsilon", 1e-6)
        converter = ((task.get("preprocessor") or {}).get("config") or {}).get(
            "image_converter"
        )
        if not converter:  # The preset has no task.
            converter = read_json(os.path.dirname(self.path), "image_converter.json")
        self._converter = (converter or {}).get("config") or {}

    @functools.cached_property
    def preprocessing(self):
        """Arguments of `Preprocessor` equivalent to the preset's image converter."""
        converter = self._converter
        if not converter:
            return {}
        other = [
            f"{key}={value!r}"
            for key, value in converter.items()
            if value and key not in _CONVERTER
        ]
        scale, offset = converter.get("scale"), converter.get("offset")
        scale = np.asarray(1.0 if scale is None else scale)
        offset = np.asarray(0.0 if offset is None else offset)
        resize = converter.get("interpolation") or "bilinear"
        resize += "_antialias" if converter.get("antialias") else ""
        if resize not in RESIZES:
            other.append(f"interpolation of {resize!r}")
        if not np.all(scale > 0):
            other.append(f"scale={converter['scale']!r}")
        size, (height, width, _) = converter.get("image_size"), self._image_shape()
        if size is not None and tuple(size) != (height, width):
            other.append(f"image_size={size!r}, for a network of {(height, width)}")
        if other:
            raise self.not_honored(f"The image converter of {self.path}", other)
        scaling = {"mean": (-offset / scale).tolist(), "std": (1 / scale).tolist()}
        if size is None:
            return {**scaling, "image_size": None}
        crops = bool(converter.get("crop_to_aspect_ratio", True))
        return {**scaling, "resize": resize, "crop_to_aspect_ratio": crops}

    def _image_shape(self):
        """Return height, width and channels, also if the preset is channels-first."""
        shape, (_, channels) = tuple(self._backbone["image_shape"]), self.patches()
        if shape[-1] != channels and shape[0] == channels:
            return (*shape[1:], shape[0])  # The preset is `channels_first`.
        return shape

    def _activation(self):
        """Return the name of the head's activation, or None if it outputs logits."""
        activation = self._task.get("activation")
        if isinstance(activation, dict):  # Keras serializes functions as dicts.
            activation = activation.get("config")
        if activation in (None, "linear"):
            return None
        if not isinstance(activation, str):
            raise ValueError(
                f"The head of {self.path} has activation={activation!r}, which is not "
                "the name of a Keras activation. Pass classifier_activation=..."
            )
        return activation

    @property
    def _kernel(self):
        return f"{self.names['patches']}/vars/0"

    def check(self):
        positions = self.names["positions"]
        self.check_ranks({self._kernel: 4, positions: self.position_rank}, {})

    def infer_config(self, overrides):
        backbone = self._backbone
        config: dict[str, Any] = {
            "input_shape": self._image_shape(),
            "patch_size": self.patches()[0],
            "hidden_dim": backbone["hidden_dim"],
            "num_layers": backbone["num_layers"],
            "num_heads": self.num_heads,
            "mlp_dim": backbone[self.mlp_entry],
            "pooling": self._task.get("pooling", "token"),
            "class_token": self._class_token(),
            "qkv_bias": backbone.get("use_mha_bias", True),
            "activation": self.activation,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            **self._own_config(),
        }
        without_head = not overrides.get("include_top", True)
        if self._task.get("pooling") == "gap" and self._class_token():
            if not without_head and overrides.get("head") != "new":
                raise ValueError(
                    f"The head of {self.path} averages the class token with the other "
                    "tokens, which keras_vit does not do. Load it without its head "
                    "(include_top=False), or with a new one (head='new', classes=...)."
                )
            config["pooling"] = "token"
        if self._task:
            if "classifier_activation" not in overrides:
                config["classifier_activation"] = self._activation()
            config["classes"] = self._task["num_classes"]
            config["representation_size"] = self._task.get("intermediate_dim")
        else:
            config["include_top"] = False
        return config

    def _own_config(self):
        """Return the arguments in which a backbone differs from a plain ViT."""
        return {}

    def patches(self):
        patch, _, channels, _ = self.shapes[self._kernel]
        return patch, channels

    def num_position_rows(self):
        return self.shapes[self.names["positions"]][-2]

    def position_prefixes(self):
        return (int(self._class_token()),)

    def _class_token(self):
        return self._backbone.get("use_class_token", True)

    def position_grid(
        self, target=None, source_grid_shape=None, class_token_position=None
    ):
        patch, _ = self.patches()
        height, width, _ = self._image_shape()
        return self.position_prefixes()[0], (height // patch, width // patch)

    def pieces(self, config):
        pieces = _HubPieces(self._backbone, self.position_rank, self.heads_are_axis)
        add_vit(pieces, self.names, self.block_name, config)
        if config["include_top"]:
            width, head = config["hidden_dim"], f"{HEAD}layers/dense"
            if config["representation_size"] is not None:
                pieces.dense(head, "pre_logits", width, config["representation_size"])
                width, head = config["representation_size"], f"{head}_1"
            pieces.dense(head, "classifier", width, config["classes"])
        return pieces

    def block_name(self, index: int) -> str:
        """Return the prefix of the names in a block."""
        suffix = f"_{index}" if index else ""
        return f"{_ENCODER}/encoder_layers/vi_t_encoder_block{suffix}/"


class _HubPieces(Pieces):
    """List of `Piece`s of a preset, in which some biases may be missing.

    Args:
        backbone: dict, the config of the backbone.
        position_rank: int, number of axes of the table of positions.
        heads_are_axis: bool, whether the heads are an axis of the attention's kernels.
    """

    leaves = ("/vars/0", "/vars/1", "/vars/0", "/vars/1")

    def __init__(self, backbone, position_rank, heads_are_axis):
        super().__init__()
        self._backbone = backbone
        self._position_rank = position_rank
        self._heads_are_axis = heads_are_axis

    def plain(self, name, path, shape, stored_shape=None):
        if path == POSITIONS:  # The table may lack the axis for the batch.
            shape, stored_shape = shape[-self._position_rank :], shape
        super().plain(name, path, shape, stored_shape)

    def kernel(self, path, names, inputs, outputs):
        if not self._heads_are_axis and len(inputs) != 3:
            inputs, outputs = (math.prod(inputs),), (math.prod(outputs),)
        return super().kernel(path, names, inputs, outputs)

    def bias(self, path, names, outputs):
        if not self._heads_are_axis:
            outputs = (math.prod(outputs),)
        for part, layers in _BIASES.items():
            if layers in path and not self._backbone.get(f"use_{part}_bias", True):
                names = (None,) * len(names)  # Zeros.
        return super().bias(path, names, outputs)
