"""timm's ViT and DeiT checkpoints, and DINOv2's, which have the same names."""

import os
import re
from typing import Any

from keras_vit.weights.source import POSITIONS, Piece, Source
from keras_vit.weights.tensor_file import read_json
from keras_vit.weights.torch_layout import TorchPieces

# Heads by width, in all published sizes: nothing in the file tells them.
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}

# What DeiT III's and DINOv2's own files call things, and timm's.
_RENAMED = {
    r"\.gamma_([12])$": r".ls\1.gamma",
    r"^register_tokens$": "reg_token",
}
_POOLINGS = {"token": "token", "avg": "gap", "map": "map"}
# Architectures whose tensors may look like a ViT's, and which compute something else.
_OTHER = re.compile(r"rope|dinov3|rpn|relpos|^eva|^beit|_pe_|swiglu|parallel|diffattn")
# Of SigLIP, not all of timm's have Google's GELU.
_GELU_TANH = re.compile(
    r"(base_patch32|so400m_patch16|giantopt_patch16)_siglip|large_patch16_siglip.*_512"
)
_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_tanh", "gelu_erf": "gelu"}
# Arguments of timm's models that the tensors tell as well, or that only training meets.
_TOLD = {
    *("num_heads", "act_layer", "patch_size", "embed_dim", "depth", "mlp_ratio"),
    *("img_size", "in_chans", "num_classes", "class_token", "reg_tokens", "init_values"),
    *("no_embed_class", "qkv_bias", "fc_norm", "global_pool", "dynamic_img_size"),
    *("drop_rate", "drop_path_rate", "proj_drop_rate", "pos_drop_rate"),
    *("attn_drop_rate", "weight_init"),
}


class TimmSource(Source):
    """A `.safetensors` or `.pth` file with timm's names.

    A `config.json` beside it, as on the Hugging Face hub, tells the preprocessing, the
    pooling and the heads. Without it heads come from the width; and images are taken
    for scaled to -1 to 1, which DeiT's are not.
    """

    kind = "timm ViT"
    head_names = ("head.", "head_dist.")
    published_heads = HEADS
    resize = "bicubic_antialias"
    possible = {  # noqa: RUF012
        "positions": ("learned", "sincos_2d", "none"),
        "representation_size": (None,),
        "stem": (None,),
    }

    def __init__(self, file):
        super().__init__(file)
        self._stored: dict[str, str] = {}
        self.shapes = {}
        for stored, shape in file.shapes.items():
            if stored == "mask_token":
                continue  # DINOv2's, for training.
            name = stored
            for pattern, replacement in _RENAMED.items():
                name = re.sub(pattern, replacement, name)
            if name in self.shapes:
                raise ValueError(
                    f"{self._stored[name]} and {stored} in {file.path} are the same "
                    "tensor under two names; delete one of them."
                )
            self.shapes[name] = shape
            self._stored[name] = stored
        config = self._config()
        self._pooling = config.get("global_pool") or None
        arguments = config.get("model_args") or {}
        self.num_heads = arguments.get("num_heads")
        self._check_architecture(config.get("architecture", ""), arguments)
        if "act_layer" in arguments:
            self.activation = _ACTIVATIONS[arguments["act_layer"]]
        elif _GELU_TANH.search(config.get("architecture", "")):
            self.activation = "gelu_tanh"
        published = config.get("pretrained_cfg") or {}
        if "input_size" in published:
            _, height, width = published["input_size"]
            self.image_size = (height, width)
        if "mean" in published:
            self.preprocessing = {
                "mean": [255 * x for x in published["mean"]],
                "std": [255 * x for x in published["std"]],
                "crop_fraction": published.get("crop_pct", 0.875),
                "resize": f"{published.get('interpolation', 'bicubic')}_antialias",
            }

    def _check_architecture(self, architecture, arguments):
        other = [name for name in arguments if name not in _TOLD]
        if _OTHER.search(architecture):
            other = [architecture]
        if arguments.get("act_layer", "gelu") not in _ACTIVATIONS:
            other = [f"act_layer={arguments['act_layer']!r}"]
        if self._pooling is not None and self._pooling not in _POOLINGS:
            other = [f"global_pool={self._pooling!r}"]
        if other:
            raise ValueError(
                f"The config.json beside {self.path} describes a network that keras_vit "
                f"does not have ({', '.join(map(str, other))}): its tensors would load "
                "and give other outputs. Without config.json they are taken for a plain "
                "ViT."
            )

    def _config(self):
        config = read_json(os.path.dirname(self.path), "config.json")
        return config if "architecture" in config else {}

    def read(self, read, name):
        return read(self._stored[name])

    def check(self):
        self.check_ranks(
            {
                "patch_embed.proj.weight": 4,
                "blocks.0.attn.qkv.weight": 2,
                "blocks.0.mlp.fc1.weight": 2,
            },
            {"pos_embed": 3, "head.bias": 1, "reg_token": 3},
        )

    def infer_config(self, overrides):
        shapes = self.shapes
        width = shapes["patch_embed.proj.weight"][0]
        if "pos_embed" not in shapes and "positions" not in overrides:
            raise ValueError(
                f"{self.path} has no positions. Its network computes them (DINOv3 and "
                "others with rotary ones, which keras_vit does not have), or does "
                "without: then pass positions='none', or 'sincos_2d'."
            )
        class_token = "cls_token" in shapes
        after_pooling = "fc_norm.weight" in shapes
        pooling = "token" if class_token and not after_pooling else "gap"
        if "attn_pool.latent" in shapes:
            pooling = "map"
        config: dict[str, Any] = {
            "patch_size": shapes["patch_embed.proj.weight"][2],
            "hidden_dim": width,
            "num_layers": sum(name.endswith("attn.qkv.weight") for name in shapes),
            "num_heads": self.heads(overrides, width),
            "mlp_dim": shapes["blocks.0.mlp.fc1.weight"][0],
            "pooling": _POOLINGS[self._pooling] if self._pooling else pooling,
            "class_token": class_token,
            "distillation_token": "dist_token" in shapes,
            "final_norm": "after_pooling" if after_pooling else "before_pooling",
            "positions": "learned" if "pos_embed" in shapes else "none",
            "registers": shapes["reg_token"][1] if "reg_token" in shapes else 0,
            # The initial value; the file has the trained ones.
            "layer_scale": 1e-5 if "blocks.0.ls1.gamma" in shapes else None,
            "qkv_bias": "blocks.0.attn.qkv.bias" in shapes,
            "activation": self.activation,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }
        if "head.bias" in shapes:
            config["classes"] = shapes["head.bias"][0]
        else:
            config["include_top"] = False
        if "pos_embed" in shapes:
            config |= self.square_input_shape(overrides)
        return config

    def patches(self):
        _, channels, _, patch = self.shapes["patch_embed.proj.weight"]
        return patch, channels

    def num_position_rows(self):
        return self.shapes["pos_embed"][1] if "pos_embed" in self.shapes else None

    def position_prefixes(self):
        tokens = ("cls_token" in self.shapes) + ("dist_token" in self.shapes)
        registers = self.shapes["reg_token"][1] if "reg_token" in self.shapes else 0
        # Of all prefix tokens; without registers (DINOv2); of none (`no_embed_class`).
        return tokens + registers, tokens, 0

    def pieces(self, config):
        d, mlp_dim = config["hidden_dim"], config["mlp_dim"]
        p, c = config["patch_size"], config["input_shape"][-1]
        pieces = TorchPieces()
        pieces.patch_projection("patch_embed.proj", p, c, d)
        if config["class_token"]:
            pieces.plain("cls_token", "patch_encoder/class_token", (1, 1, d))
        if config["distillation_token"]:
            pieces.plain("dist_token", "patch_encoder/distillation_token", (1, 1, d))
        if config["positions"] == "learned":
            pieces.plain("pos_embed", POSITIONS, (1, config["position_rows"], d))
        if config["registers"]:
            shape = (1, config["registers"], d)
            pieces.plain("reg_token", "patch_encoder/registers", shape)
        for i in range(config["num_layers"]):
            name, path = f"blocks.{i}", f"block_{i}"
            pieces.norm(f"{name}.norm1", f"{path}/attention_norm", d)
            qkv = f"{path}/attention/qkv"
            bias = config["qkv_bias"]
            pieces.linear(f"{name}.attn.qkv", qkv, d, 3 * d, bias)
            pieces.linear(f"{name}.attn.proj", f"{path}/attention/projection", d, d)
            pieces.norm(f"{name}.norm2", f"{path}/mlp_norm", d)
            pieces.linear(f"{name}.mlp.fc1", f"{path}/mlp/expand", d, mlp_dim)
            pieces.linear(f"{name}.mlp.fc2", f"{path}/mlp/contract", mlp_dim, d)
            if config["layer_scale"] is not None:
                for k, branch in ((1, "attention"), (2, "mlp")):
                    scale = f"{path}/{branch}_scale/gamma"
                    pieces.plain(f"{name}.ls{k}.gamma", scale, (d,))
        norm = "fc_norm" if config["final_norm"] == "after_pooling" else "norm"
        pieces.norm(norm, "norm", d)
        if config["pooling"] == "map":
            pieces.plain("attn_pool.latent", "pooling/probe", (1, 1, d))
            pieces.linear("attn_pool.q", "pooling/query", d, d)
            pieces.linear("attn_pool.kv", "pooling/key_value", d, 2 * d)
            pieces.linear("attn_pool.proj", "pooling/projection", d, d)
            pieces.norm("attn_pool.norm", "pooling/norm", d)
            pieces.linear("attn_pool.mlp.fc1", "pooling/mlp/expand", d, mlp_dim)
            pieces.linear("attn_pool.mlp.fc2", "pooling/mlp/contract", mlp_dim, d)
        if config["include_top"]:
            classes = config["classes"]
            pieces.linear("head", "classifier", d, classes)
            if config["distillation_token"]:
                pieces.linear("head_dist", "distillation_classifier", d, classes)
        return list[Piece](pieces)
