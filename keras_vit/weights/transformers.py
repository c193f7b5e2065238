"""transformers' ViT and DeiT: directories, or their `.safetensors` and `.bin` files."""

import os
from typing import Any

from keras_vit.weights.source import POSITIONS, Piece, Source
from keras_vit.weights.tensor_file import read_json
from keras_vit.weights.timm import HEADS
from keras_vit.weights.torch_layout import TorchPieces

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
}
# Pillow's numbers for ways to interpolate.
_RESAMPLE = {2: "bilinear_antialias", 3: "bicubic_antialias"}

# What is in a block: before version 5, and since.
_OLD = {
    "block": "encoder.layer",
    "qkv": tuple(f"attention.attention.{x}" for x in ("query", "key", "value")),
    "projection": "attention.output.dense",
    "expand": "intermediate.dense",
    "contract": "output.dense",
}
_NEW = {
    "block": "layers",
    "qkv": tuple(f"attention.{x}_proj" for x in "qkv"),
    "projection": "attention.o_proj",
    "expand": "mlp.fc1",
    "contract": "mlp.fc2",
}


def _sides(size):
    """Height and width, however the configuration writes them."""
    if isinstance(size, int):
        return size, size
    if isinstance(size, dict) and "shortest_edge" in size:
        return size["shortest_edge"], size["shortest_edge"]
    height, width = (size["height"], size["width"]) if isinstance(size, dict) else size
    return height, width


class TransformersSource(Source):
    """`ViTForImageClassification`, `ViTModel`, and DeiT's, with and without teacher.

    `config.json` beside the file tells heads, epsilon and GELU,
    `preprocessor_config.json` the preprocessing. DeiT without its teacher's head uses
    its distillation token as a register, and so does the model here.
    """

    kind = "transformers ViT"
    head_names: tuple[str, ...] = (
        "classifier.",
        "cls_classifier.",
        "distillation_classifier.",
    )
    published_heads = HEADS
    resize = "bicubic"
    # That of every published configuration.
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
        new = any(name.startswith(f"{self._prefix}layers.") for name in self.shapes)
        self._names = _NEW if new else _OLD
        # The pooler is no part of the classifier, but a layer for other tasks.
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
        activation = config.get("hidden_act", "gelu")
        self.activation = _ACTIVATIONS.get(activation, activation)
        if config.get("image_size") is not None:
            self.image_size = _sides(config["image_size"])
        name = "preprocessor_config.json"
        try:
            self._read_preprocessing(read_json(directory, name))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{os.path.join(directory, name)} is not understood "
                f"({type(error).__name__}: {error}). Mend it, or move it away and pass "
                "preprocessor=..."
            ) from None

    def _read_preprocessing(self, config):
        if "image_mean" not in config:
            return
        scale = config.get("rescale_factor", 1 / 255)
        if not config.get("do_rescale", True):
            scale = 1.0
        mean, std = config["image_mean"], config["image_std"]
        if not config.get("do_normalize", True):
            mean, std = [0.0] * len(mean), [1.0] * len(std)
        self.preprocessing = {
            "mean": [x / scale for x in mean],
            "std": [x / scale for x in std],
            "resize": _RESAMPLE[config.get("resample", 2)],
        }
        crop = config.get("crop_size") if config.get("do_center_crop") else None
        if crop is not None:
            # DeiT's processor makes images square before the crop; here, as in DeiT's own
            # code, they keep their aspect ratio.
            inner, outer = (min(_sides(size)) for size in (crop, config["size"]))
            self.preprocessing["crop_fraction"] = inner / outer

    def _has_head(self):
        heads = ("classifier.bias", "cls_classifier.bias")
        return any(name in self.file.shapes for name in heads)

    def _embedding(self, name):
        return f"{self._prefix}embeddings.{name}"

    def _kernel(self):
        return self._embedding("patch_embeddings.projection.weight")

    def _of_first_block(self, name):
        return f"{self._prefix}{self._names['block']}.0.{name}"

    def check(self):
        mlp = self._of_first_block(f"{self._names['expand']}.weight")
        self.check_ranks(
            {self._kernel(): 4, self._embedding("position_embeddings"): 3, mlp: 2},
            {"classifier.bias": 1, "cls_classifier.bias": 1},
        )

    def infer_config(self, overrides):
        shapes, kernel = self.shapes, self._kernel()
        width = shapes[kernel][0]
        distilled = "cls_classifier.bias" in shapes
        config: dict[str, Any] = {
            "patch_size": shapes[kernel][2],
            "hidden_dim": width,
            "num_layers": sum(name.endswith("layernorm_before.bias") for name in shapes),
            "num_heads": self.heads(overrides, width),
            "mlp_dim": shapes[self._of_first_block(f"{self._names['expand']}.weight")][0],
            "pooling": "token",
            "class_token": True,
            "distillation_token": distilled,
            "registers": int(self._has_distillation_token() and not distilled),
            "positions": "learned",
            "qkv_bias": self._of_first_block(f"{self._names['qkv'][0]}.bias") in shapes,
            "activation": self.activation,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }
        for name in ("classifier.bias", "cls_classifier.bias"):
            if name in shapes:
                config["classes"] = shapes[name][0]
        if "classes" not in config:
            config["include_top"] = False
        return config | self.square_input_shape(overrides)

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
        d, mlp_dim = config["hidden_dim"], config["mlp_dim"]
        p, c = config["patch_size"], config["input_shape"][-1]
        names = self._names
        pieces = TorchPieces()
        projection = self._embedding("patch_embeddings.projection")
        pieces.patch_projection(projection, p, c, d)
        if config["class_token"]:
            token = self._embedding("cls_token")
            pieces.plain(token, "patch_encoder/class_token", (1, 1, d))
        token = self._embedding("distillation_token")
        if config["distillation_token"]:
            pieces.plain(token, "patch_encoder/distillation_token", (1, 1, d))
        positions = self._embedding("position_embeddings")
        pieces.plain(positions, POSITIONS, (1, config["position_rows"], d))
        if config["registers"]:
            shape = (1, config["registers"], d)
            pieces.plain(token, "patch_encoder/registers", shape)
        for i in range(config["num_layers"]):
            name, path = f"{self._prefix}{names['block']}.{i}", f"block_{i}"
            pieces.norm(f"{name}.layernorm_before", f"{path}/attention_norm", d)
            qkv = tuple(f"{name}.{part}" for part in names["qkv"])
            pieces.linear(qkv, f"{path}/attention/qkv", d, d, config["qkv_bias"])
            projection = f"{name}.{names['projection']}"
            pieces.linear(projection, f"{path}/attention/projection", d, d)
            pieces.norm(f"{name}.layernorm_after", f"{path}/mlp_norm", d)
            pieces.linear(f"{name}.{names['expand']}", f"{path}/mlp/expand", d, mlp_dim)
            contract = f"{name}.{names['contract']}"
            pieces.linear(contract, f"{path}/mlp/contract", mlp_dim, d)
        pieces.norm(f"{self._prefix}layernorm", "norm", d)
        if config["include_top"]:
            classes = config["classes"]
            if config["distillation_token"]:
                pieces.linear("cls_classifier", "classifier", d, classes)
                teacher = "distillation_classifier"
                pieces.linear(teacher, teacher, d, classes)
            else:
                pieces.linear("classifier", "classifier", d, classes)
        return list[Piece](pieces)
