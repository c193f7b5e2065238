"""KerasHub ViT presets: directories that `save_to_preset` writes."""

import functools
import os
from typing import Any

import numpy as np

from keras_vit.layers.preprocessor import RESIZES
from keras_vit.weights.h5 import H5File
from keras_vit.weights.pieces import POSITIONS, Pieces, add_vit
from keras_vit.weights.source import Source
from keras_vit.weights.tensor_file import read_json

_EMBEDDING = "layers/vi_t_patching_and_embedding"
_ENCODER = "layers/vi_t_encoder"
_HEAD = "task/"
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
    "mlp": "/mlp/",
}
# Entries of an image converter that `Preprocessor` honors or that do not change pixels.
_CONVERTER = {
    *("scale", "offset", "interpolation", "antialias", "crop_to_aspect_ratio"),
    *("image_size", "name", "dtype", "trainable", "bounding_box_format", "data_format"),
}


def open_preset(directory: str, config: dict[str, Any]) -> "KerasHubSource":
    """Open the preset in a directory.

    Args:
        directory: str, path of the directory.
        config: dict, the content of its `config.json`.

    Returns:
        A `KerasHubSource`.

    Raises:
        ValueError: if the preset is not a ViT, or is incomplete.
    """
    if config.get("class_name") != "ViTBackbone":
        raise ValueError(
            f"{directory} is a KerasHub preset of {config.get('class_name')}; keras_vit "
            "reads presets of ViTBackbone."
        )
    paths = {"": os.path.join(directory, "model.weights.h5")}
    task: dict[str, Any] | None = {}
    if os.path.isfile(os.path.join(directory, "task.weights.h5")):
        paths[_HEAD] = os.path.join(directory, "task.weights.h5")
        task = read_json(directory, "task.json").get("config")
    needed = ("hidden_dim", "image_shape", "mlp_dim", "num_heads", "num_layers")
    missing = [key for key in needed if key not in config.get("config", {})]
    if not os.path.isfile(paths[""]):
        missing.append("model.weights.h5")
    if task is None:
        missing.append("config in task.json")
    if missing:
        raise ValueError(
            f"The KerasHub preset in {directory} is incomplete; missing: "
            f"{', '.join(missing)}. Save it again with save_to_preset."
        )
    return KerasHubSource(H5File(paths), config["config"], task)


class KerasHubSource(Source):
    """Checkpoint source for presets of KerasHub's `ViTBackbone`, with or without a head.

    Args:
        file: the opened file or files.
        backbone: dict, the config of the backbone.
        task: dict, the config of the classifier; empty if the preset has none.
    """

    kind = "KerasHub ViT"
    head_names = (_HEAD,)
    resize = "bilinear"
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

    def check(self):
        kernel = f"{_EMBEDDING}/patch_embedding/vars/0"
        self.check_ranks({kernel: 4, f"{_EMBEDDING}/position_embedding/vars/0": 2}, {})

    def infer_config(self, overrides):
        backbone = self._backbone
        config: dict[str, Any] = {
            "input_shape": self._image_shape(),
            "patch_size": self.patches()[0],
            "hidden_dim": backbone["hidden_dim"],
            "num_layers": backbone["num_layers"],
            "num_heads": self.num_heads,
            "mlp_dim": backbone["mlp_dim"],
            "pooling": self._task.get("pooling", "token"),
            "class_token": self._class_token(),
            "qkv_bias": backbone.get("use_mha_bias", True),
            "activation": self.activation,
            "layer_norm_epsilon": self.layer_norm_epsilon,
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

    def patches(self):
        patch, _, channels, _ = self.shapes[f"{_EMBEDDING}/patch_embedding/vars/0"]
        return patch, channels

    def num_position_rows(self):
        return self.shapes[f"{_EMBEDDING}/position_embedding/vars/0"][0]

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
        pieces = _HubPieces(self._backbone)
        add_vit(pieces, _NAMES, _block_name, config)
        if config["include_top"]:
            width, head = config["hidden_dim"], f"{_HEAD}layers/dense"
            if config["representation_size"] is not None:
                pieces.dense(head, "pre_logits", width, config["representation_size"])
                width, head = config["representation_size"], f"{head}_1"
            pieces.dense(head, "classifier", width, config["classes"])
        return pieces


def _block_name(index):
    suffix = f"_{index}" if index else ""
    return f"{_ENCODER}/encoder_layers/vi_t_encoder_block{suffix}/"


class _HubPieces(Pieces):
    """List of `Piece`s of a preset, in which some biases may be missing.

    Args:
        backbone: dict, the config of the backbone.
    """

    leaves = ("/vars/0", "/vars/1", "/vars/0", "/vars/1")

    def __init__(self, backbone):
        super().__init__()
        self._backbone = backbone

    def plain(self, name, path, shape, stored_shape=None):
        if path == POSITIONS:  # The table of KerasHub has no axis for the batch.
            shape, stored_shape = shape[1:], shape
        super().plain(name, path, shape, stored_shape)

    def bias(self, path, names, outputs):
        for part, layers in _BIASES.items():
            if layers in path and not self._backbone.get(f"use_{part}_bias", True):
                names = ()
        return super().bias(path, names, outputs)
