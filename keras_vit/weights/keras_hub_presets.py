"""KerasHub presets: directories that `save_to_preset` writes."""

import os
from typing import Any

from keras_vit.layers.rotary import RotaryPositions
from keras_vit.weights.h5 import H5File
from keras_vit.weights.keras_hub import HEAD, KerasHubSource
from keras_vit.weights.tensor_file import read_json

_ATTENTION = ("query", "key", "value")
_DEIT = "layers/dei_t_embeddings"
_DEIT_ENCODER = "layers/dei_t_encoder"
_DINOV2 = "layers/dinov2_embedding"
_DINOV2_ENCODER = "layers/dinov2_encoder"
_DINOV3 = "layers/dinov3_embedding"
_DINOV3_ENCODER = "layers/dinov3_encoder"
# Argument `qkv_bias` of `ViT` for the biases of query, key and value.
_DINOV3_BIASES: dict[tuple[bool, ...], bool | str] = {
    (True, True, True): True,
    (True, False, True): "qv",
    (False, False, False): False,
}


class DeiTPreset(KerasHubSource):
    """Checkpoint source for KerasHub's `DeiTBackbone`.

    The distillation token serves as a register, since only the class token has a head.
    """

    kind = "KerasHub DeiT"
    mlp_entry = "intermediate_dim"
    names = {  # noqa: RUF012
        "patches": f"{_DEIT}/patch_embedding",
        "class_token": f"{_DEIT}/vars/0",
        "registers": f"{_DEIT}/vars/1",
        "positions": f"{_DEIT}/vars/2",
        "block": {
            "attention_norm": "layer_norm_1",
            "attention/qkv": tuple(f"mha/{x}_dense" for x in _ATTENTION),
            "attention/projection": "mha/output_dense",
            "mlp_norm": "layer_norm_2",
            "mlp/expand": "mlp/dense",
            "mlp/contract": "output_layer/dense",
        },
        "norm": f"{_DEIT_ENCODER}/layer_norm",
    }
    position_rank = 3
    possible = {**KerasHubSource.possible, "registers": (1,)}  # noqa: RUF012

    def _own_config(self):
        return {"registers": 1}

    def position_prefixes(self):
        return (2,)

    def block_name(self, index):
        suffix = f"_{index}" if index else ""
        return f"{_DEIT_ENCODER}/encoder_layers/dei_t_encoder_block{suffix}/"


class DINOv2Preset(KerasHubSource):
    """Checkpoint source for KerasHub's `DINOV2Backbone`, with or without registers.

    Positions are resized from the size of their training to that of the images. KerasHub
    does so with a bicubic kernel that depends on its backend; keras_vit uses PyTorch's.

    Args:
        file: the opened file.
        backbone: dict, the config of the backbone.
        task: dict, empty.
    """

    kind = "KerasHub DINOv2"
    mlp_entry = "intermediate_dim"
    position_rank = 3
    possible = {  # noqa: RUF012
        key: values
        for key, values in KerasHubSource.possible.items()
        if key not in ("registers", "layer_scale")
    }

    def __init__(self, file, backbone, task):
        has_mask = backbone.get("use_mask_token", True)
        registers = backbone.get("num_register_tokens", 0)
        # The table for the size of the images is recomputed when a preset is loaded.
        resized = 1 + has_mask + bool(registers)
        unused = {f"{_DINOV2}/vars/{resized}", *([f"{_DINOV2}/vars/1"] * has_mask)}
        self.names = {  # type: ignore[misc]
            "patches": f"{_DINOV2}/patch_embeddings/projection",
            "class_token": f"{_DINOV2}/vars/0",
            "registers": f"{_DINOV2}/vars/{1 + has_mask}",
            "positions": f"{_DINOV2}/vars/{resized + 1}",
            "block": {
                "attention_norm": "norm1",
                "attention/qkv": tuple(
                    f"attention/attention/{x}_dense" for x in _ATTENTION
                ),
                "attention/projection": "attention/attention/output_dense",
                "attention_scale": "layer_scale1/vars/0",
                "mlp_norm": "norm2",
                "mlp/expand": "mlp/fc1",
                "mlp/contract": "mlp/fc2",
                "mlp_scale": "layer_scale2/vars/0",
            },
            "norm": "layers/layer_normalization",
        }
        if backbone.get("use_swiglu_ffn"):
            self.names["block"] |= {
                "mlp/expand": "mlp/weights_in",
                "mlp/contract": "mlp/weights_out",
            }
            self.possible = {**self.possible, "mlp": ("swiglu",)}
        super().__init__(file, backbone, task)
        self.shapes = {n: s for n, s in self.shapes.items() if n not in unused}
        antialias = backbone.get("antialias_in_interpolation")
        self.resize = "bicubic_antialias" if antialias else "bicubic"

    def _own_config(self):
        config = {
            "registers": self._backbone.get("num_register_tokens", 0),
            # This is the initial value; the trained values come from the file.
            "layer_scale": self._backbone.get("layer_scale_init_value", 1.0),
        }
        if self._backbone.get("use_swiglu_ffn"):
            hidden = int(self._backbone[self.mlp_entry] * 2 / 3)
            config |= {"mlp": "swiglu", "mlp_dim": (hidden + 7) // 8 * 8}
        return config

    def position_grid(
        self, target=None, source_grid_shape=None, class_token_position=None
    ):
        shape = self._backbone.get("position_embedding_shape", (518, 518))
        patch, channels = self.patches()
        if len(shape) == 3 and shape[0] == channels != shape[-1]:
            shape = shape[1:]  # The preset is `channels_first`.
        return 1, (shape[0] // patch, shape[1] // patch)

    def block_name(self, index):
        suffix = f"_{index}" if index else ""
        return f"{_DINOV2_ENCODER}/layers/dinov2_layer{suffix}/"


class DINOv3Preset(KerasHubSource):
    """Checkpoint source for KerasHub's `DINOV3Backbone`, with plain or gated MLPs.

    Args:
        file: the opened file.
        backbone: dict, the config of the backbone.
        task: dict, empty.

    Raises:
        ValueError: if the backbone has another combination of biases, or another
            activation, than published networks.
    """

    kind = "KerasHub DINOv3"
    mlp_entry = "intermediate_dim"
    heads_are_axis = False

    def __init__(self, file, backbone, task):
        self._gated = backbone.get("use_gated_mlp", False)
        has_mask = backbone.get("use_mask_token", True)
        expand = ("mlp/gate_proj", "mlp/up_proj") if self._gated else "mlp/up_proj"
        q, k, v = (f"attention/{part}_dense" for part in _ATTENTION)
        self.names = {  # type: ignore[misc]
            "patches": f"{_DINOV3}/patch_embeddings/projection",
            "class_token": f"{_DINOV3}/vars/0",
            "registers": f"{_DINOV3}/vars/{1 + has_mask}",
            "block": {
                "attention_norm": "norm1",
                "attention/qkv": (q, k, v),
                "attention/qkv/bias": (f"{q}/vars/1", None, f"{v}/vars/1"),
                "attention/projection": "attention/output_dense",
                "attention_scale": "layer_scale1/vars/0",
                "mlp_norm": "norm2",
                "mlp/expand": expand,
                "mlp/contract": "mlp/down_proj",
                "mlp_scale": "layer_scale2/vars/0",
            },
            "norm": "layers/layer_normalization",
        }
        super().__init__(file, backbone, task)
        if has_mask:
            self.shapes.pop(f"{_DINOV3}/vars/1", None)
        self.layer_norm_epsilon = backbone.get("layer_norm_eps", 1e-5)
        biases = tuple(backbone.get(f"use_{part}_bias", True) for part in _ATTENTION)
        activation = backbone.get("hidden_activation", "gelu")
        if biases not in _DINOV3_BIASES or activation != ("gelu", "silu")[self._gated]:
            raise ValueError(
                f"The KerasHub preset {self.path} has hidden_activation={activation!r}, "
                f"use_gated_mlp={self._gated} and biases of query, key and value "
                f"{biases}, which keras_vit does not read together."
            )
        self._qkv_bias = _DINOV3_BIASES[biases]
        config = self._own_config()
        self.possible = {
            "pooling": ("token", "gap", None),
            "final_norm": ("before_pooling",),
            **{name: (config[name],) for name in ("positions", "registers", "mlp")},
        }

    def _own_config(self):
        theta = float(self._backbone.get("rope_theta", 100.0))
        usual = theta == 100.0
        return {
            "positions": "rope_axial" if usual else RotaryPositions(temperature=theta),
            "qkv_bias": self._qkv_bias,
            "mlp": "swiglu" if self._gated else "plain",
            "registers": self._backbone.get("num_register_tokens", 4),
            # This is the initial value; the trained values come from the file.
            "layer_scale": self._backbone.get("layer_scale_init_value", 1.0),
        }

    def check(self):
        self.check_ranks({self._kernel: 4, self.names["class_token"]: 3}, {})

    def num_position_rows(self):
        return None

    def position_grid(
        self, target=None, source_grid_shape=None, class_token_position=None
    ):
        return 0, None

    def block_name(self, index):
        suffix = f"_{index}" if index else ""
        return f"{_DINOV3_ENCODER}/layers/dinov3_layer{suffix}/"


_SOURCES: dict[str, type[KerasHubSource]] = {
    "ViTBackbone": KerasHubSource,
    "DeiTBackbone": DeiTPreset,
    "DINOV2Backbone": DINOv2Preset,
    "DINOV3Backbone": DINOv3Preset,
}


def open_preset(directory: str, config: dict[str, Any]) -> KerasHubSource:
    """Open the preset in a directory.

    Args:
        directory: str, path of the directory.
        config: dict, the content of its `config.json`.

    Returns:
        A `KerasHubSource`.

    Raises:
        ValueError: if the preset is of another backbone, or is incomplete.
    """
    source = _SOURCES.get(config.get("class_name", ""))
    if source is None:
        raise ValueError(
            f"{directory} is a KerasHub preset of {config.get('class_name')}; keras_vit "
            f"reads presets of {', '.join(_SOURCES)}."
        )
    paths = {"": os.path.join(directory, "model.weights.h5")}
    task: dict[str, Any] | None = {}
    if os.path.isfile(os.path.join(directory, "task.weights.h5")):
        paths[HEAD] = os.path.join(directory, "task.weights.h5")
        task = read_json(directory, "task.json").get("config")
    needed = ("hidden_dim", "image_shape", source.mlp_entry, "num_heads", "num_layers")
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
    return source(H5File(paths), config["config"], task)
