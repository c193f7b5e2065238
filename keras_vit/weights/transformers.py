"""ViT and DeiT checkpoints of transformers: directories, `.safetensors`, `.bin`."""

import functools
import os
from typing import Any

from keras_vit.weights.pieces import TorchPieces, add_vit
from keras_vit.weights.source import Source
from keras_vit.weights.tensor_file import read_json
from keras_vit.weights.timm import HEADS
from keras_vit.weights.transformers_preprocessing import (
    read_preprocessor_config,
    read_size,
)

# Values of `model_type` whose classes compute the same as a plain ViT.
_MODEL_TYPES = ("vit", "deit", "vit_msn")
_PROBLEMS = {
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": None,
}
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_accurate": "gelu_tanh",
    **{name: name for name in ("relu", "relu6", "silu", "tanh", "sigmoid", "mish")},
    "swish": "silu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
_NAMES: dict[str, Any] = {
    "patches": "embeddings.patch_embeddings.projection",
    "class_token": "embeddings.cls_token",
    "distillation_token": "embeddings.distillation_token",
    "positions": "embeddings.position_embeddings",
    # DeiT without a distillation head uses that token as a register.
    "registers": "embeddings.distillation_token",
    "norm": "layernorm",
}
# Names in a block before version 5 of transformers and since.
_OLD_BLOCK = {
    "attention_norm": "layernorm_before",
    "attention/qkv": tuple(f"attention.attention.{x}" for x in ("query", "key", "value")),
    "attention/projection": "attention.output.dense",
    "mlp_norm": "layernorm_after",
    "mlp/expand": "intermediate.dense",
    "mlp/contract": "output.dense",
}
_NEW_BLOCK = {
    "attention_norm": "layernorm_before",
    "attention/qkv": tuple(f"attention.{x}_proj" for x in "qkv"),
    "attention/projection": "attention.o_proj",
    "mlp_norm": "layernorm_after",
    "mlp/expand": "mlp.fc1",
    "mlp/contract": "mlp.fc2",
}


def check_model_type(path: str, config: dict[str, Any]) -> None:
    """Raise a `ValueError` if a config.json of transformers describes another model.

    Args:
        path: path of the file or directory, for the message.
        config: dict, the content of its `config.json`. A `config.json` of timm passes.
    """
    model_type = config.get("model_type")
    if model_type not in (None, *_MODEL_TYPES) and "architecture" not in config:
        raise ValueError(
            f"{path} is a checkpoint of transformers with model_type={model_type!r}; "
            f"keras_vit reads {', '.join(map(repr, _MODEL_TYPES))}, and no others."
        )


class TransformersSource(Source):
    """Checkpoint source for `ViTForImageClassification`, `ViTModel` and DeiT.

    The `config.json` beside the file determines the number of heads, the epsilon of the
    norms and the activation. `preprocessor_config.json` determines the preprocessing.
    DeiT without a distillation head still has a distillation token, which serves as a
    register.

    Args:
        file: the opened file.

    Raises:
        ValueError: if `config.json` describes a network that keras_vit does not support.
    """

    kind = "transformers ViT"
    head_names: tuple[str, ...] = (
        "classifier.",
        "cls_classifier.",
        "distillation_classifier.",
    )
    published_heads = HEADS
    resize = "bicubic"
    # The epsilon in all published configurations.
    layer_norm_epsilon = 1e-12
    possible = {  # noqa: RUF012
        "pooling": ("token", "gap", None),
        "positions": ("learned",),
        "representation_size": (None,),
        "layer_scale": (None,),
        "final_norm": ("before_pooling",),
        "stem": (None,),
    }

    def __init__(self, file):
        super().__init__(file)
        self._prefix = ""
        for prefix in ("vit.", "deit."):
            if any(name.startswith(prefix) for name in self.shapes):
                self._prefix = prefix
        self._new = any(n.startswith(f"{self._prefix}layers.") for n in self.shapes)
        self._block = _NEW_BLOCK if self._new else _OLD_BLOCK
        # The pooler is a layer for other tasks. It counts as part of the head, and is
        # ignored if the file has a classifier, which does not use it.
        self.head_names = (*type(self).head_names, f"{self._prefix}pooler.")
        self.shapes = {
            name: shape
            for name, shape in self.shapes.items()
            if not (name.startswith(f"{self._prefix}pooler.") and self._has_head())
        }
        directory = os.path.dirname(self.path)
        config = read_json(directory, "config.json")
        self.num_heads = config.get("num_attention_heads")
        self.layer_norm_epsilon = config.get("layer_norm_eps", self.layer_norm_epsilon)
        check_model_type(self.path, config)
        self._config = config
        activation = config.get("hidden_act", "gelu")
        if activation not in _ACTIVATIONS:
            raise ValueError(
                f"The config.json beside {self.path} has hidden_act={activation!r}, "
                f"which keras_vit does not have; it has {', '.join(_ACTIVATIONS)}."
            )
        self.activation = _ACTIVATIONS[activation]
        if config.get("image_size") is not None:
            try:
                self.image_size = read_size(config["image_size"])
            except ValueError as error:
                raise ValueError(
                    f"The image_size in the config.json beside {self.path} is not "
                    f"understood: {error}. Correct it."
                ) from None

    @functools.cached_property
    def preprocessing(self):
        """Arguments of `Preprocessor` equivalent to `preprocessor_config.json`."""
        preprocessing, _ = self._preprocessing
        return preprocessing

    @functools.cached_property
    def _preprocessing(self):
        """Arguments of `Preprocessor`, and the image size that they give, or None."""
        directory, name = os.path.dirname(self.path), "preprocessor_config.json"
        path = os.path.join(directory, name)
        config = read_json(directory, name)
        if not config:
            return {}, None
        try:
            preprocessing, other, size = read_preprocessor_config(
                config, self._config.get("model_type")
            )
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise ValueError(
                f"{path} is not understood ({type(error).__name__}: {error}). Pass "
                "preprocessor=keras_vit.layers.Preprocessor(...) instead."
            ) from None
        if other:
            raise self.not_honored(path, other)
        return preprocessing, size

    def _check_size(self, overrides, input_shape):
        """Raise a `ValueError` if the preprocessor's image size is not the network's."""
        given = {key for key, value in overrides.items() if value is not None}
        if input_shape is None or given & {"input_shape", "preprocessor"}:
            return
        _, size = self._preprocessing
        if size is None or size == input_shape[:2]:
            return
        height, width, channels = input_shape
        raise ValueError(
            f"The preprocessor_config.json beside {self.path} makes images of "
            f"{size[0]}x{size[1]} pixels, but the network takes {height}x{width}. Pass "
            f"input_shape={(*size, channels)} to resize the network's positions, or "
            f"input_shape={input_shape} to resize images to what the network takes."
        )

    def _labels(self):
        return self._config.get("id2label")

    def _classifier_activation(self, overrides, classes):
        problem = self._config.get("problem_type")
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

    def _has_head(self):
        heads = ("classifier.bias", "cls_classifier.bias")
        return any(name in self.file.shapes for name in heads)

    def _embedding(self, name):
        return f"{self._prefix}embeddings.{name}"

    def _kernel(self):
        return self._embedding("patch_embeddings.projection.weight")

    def _block_name(self, index):
        return f"{self._prefix}{'layers' if self._new else 'encoder.layer'}.{index}."

    def check(self):
        mlp = f"{self._block_name(0)}{self._block['mlp/expand']}.weight"
        self.check_ranks(
            {self._kernel(): 4, self._embedding("position_embeddings"): 3, mlp: 2},
            {"classifier.bias": 1, "cls_classifier.bias": 1},
        )

    def infer_config(self, overrides):
        shapes, kernel, first = self.shapes, self._kernel(), self._block_name(0)
        width = shapes[kernel][0]
        distilled = "cls_classifier.bias" in shapes
        config: dict[str, Any] = {
            "patch_size": shapes[kernel][2],
            "hidden_dim": width,
            "num_layers": sum(name.endswith("layernorm_before.bias") for name in shapes),
            "num_heads": self.heads(overrides, width),
            "mlp_dim": shapes[f"{first}{self._block['mlp/expand']}.weight"][0],
            "pooling": "token",
            "class_token": True,
            "distillation_token": distilled,
            "registers": int(self._has_distillation_token() and not distilled),
            "positions": "learned",
            "qkv_bias": f"{first}{self._block['attention/qkv'][0]}.bias" in shapes,
            "activation": self.activation,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }
        self._check_stated(config)
        for name in ("classifier.bias", "cls_classifier.bias"):
            if name in shapes:
                config["classes"] = shapes[name][0]
        if "classes" in config:
            activation = self._classifier_activation(overrides, config["classes"])
            config["classifier_activation"] = activation
        else:
            config["include_top"] = False
        config |= self.square_input_shape(overrides)
        self._check_size(overrides, config.get("input_shape"))
        return config

    def _check_stated(self, config):
        """Raise a `ValueError` if config.json contradicts the tensors."""
        stated = {
            "hidden_size": config["hidden_dim"],
            "num_hidden_layers": config["num_layers"],
            "intermediate_size": config["mlp_dim"],
            "patch_size": config["patch_size"],
            "num_channels": self.patches()[1],
            "qkv_bias": config["qkv_bias"],
            "pruned_heads": {},
        }
        wrong = [
            f"{name}={self._config[name]!r} (the tensors: {value!r})"
            for name, value in stated.items()
            if self._config.get(name, value) not in (value, None)
        ]
        if wrong:
            raise ValueError(
                f"The config.json beside {self.path} is of another network: "
                f"{', '.join(wrong)}. Put the config.json that was saved with these "
                "weights beside them."
            )

    def _has_distillation_token(self):
        return self._embedding("distillation_token") in self.shapes

    def patches(self):
        _, channels, _, patch = self.shapes[self._kernel()]
        return patch, channels

    def num_position_rows(self):
        return self.shapes[self._embedding("position_embeddings")][1]

    def position_prefixes(self):
        return (1 + self._has_distillation_token(),)

    def pieces(self, config):
        d, classes = config["hidden_dim"], config["classes"]
        names = {name: self._prefix + own for name, own in _NAMES.items()}
        names["block"] = self._block
        pieces = TorchPieces()
        add_vit(pieces, names, self._block_name, config)
        if config["include_top"] and config["distillation_token"]:
            pieces.dense("cls_classifier", "classifier", d, classes)
            teacher = "distillation_classifier"
            pieces.dense(teacher, teacher, d, classes)
        elif config["include_top"]:
            pieces.dense("classifier", "classifier", d, classes)
        return pieces
