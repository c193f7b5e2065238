"""ViT and DeiT checkpoints of timm, and DINOv2 checkpoints, which use the same names."""

import collections
import functools
import os
import re
from typing import Any

from keras_vit.layers.preprocessor import IMAGENET_MEAN, IMAGENET_STD, RESIZES
from keras_vit.layers.resnet import ResNetStem
from keras_vit.weights.pieces import TorchPieces, add_stem, add_vit
from keras_vit.weights.source import Source
from keras_vit.weights.tensor_file import read_json
from keras_vit.weights.timm_architectures import (
    find_architecture,
    similar_architectures,
)

# Number of attention heads by width for all published sizes; no tensor shows the number.
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1408: 16, 1664: 16}

_NAMES = {
    "patches": "patch_embed.proj",
    "class_token": "cls_token",
    "distillation_token": "dist_token",
    "positions": "pos_embed",
    "registers": "reg_token",
    "block": {
        "attention_norm": "norm1",
        "attention/qkv": "attn.qkv",
        "attention/projection": "attn.proj",
        "mlp_norm": "norm2",
        "mlp/expand": "mlp.fc1",
        "mlp/contract": "mlp.fc2",
        "attention_scale": "ls1.gamma",
        "mlp_scale": "ls2.gamma",
    },
    "probe": "attn_pool.latent",
    "pooling": {
        "query": "attn_pool.q",
        "key_value": "attn_pool.kv",
        "projection": "attn_pool.proj",
        "norm": "attn_pool.norm",
        "mlp/expand": "attn_pool.mlp.fc1",
        "mlp/contract": "attn_pool.mlp.fc2",
    },
}
_ROOT = re.compile(r"patch_embed\.backbone\.(stem\.)?conv\.weight")
_UNIT = re.compile(r"patch_embed\.backbone\.stages\.(\d+)\.blocks\.(\d+)\.conv1\.weight")
_STEM = {
    "unit": "patch_embed.backbone.stages.{}.blocks.{}.".format,
    **{f"conv_{i}": f"conv{i}" for i in (1, 2, 3)},
    **{f"norm_{i}": f"norm{i}" for i in (1, 2, 3)},
    "projection": "downsample.conv",
    "projection_norm": "downsample.norm",
}
# Tensor names in the original files of DeiT III and DINOv2, with those of timm.
_RENAMED = {
    r"\.gamma_([12])$": r".ls\1.gamma",
    r"^register_tokens$": "reg_token",
}
# Values of timm's `global_pool`; "" is a backbone that returns its tokens.
_POOLINGS = {"token": "token", "avg": "gap", "map": "map", "": None}
_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_tanh", "gelu_erf": "gelu"}
# Arguments of timm's models that follow from the tensors, or that affect only training.
_SHOWN = {
    *("num_heads", "patch_size", "embed_dim", "depth", "mlp_ratio", "img_size"),
    *("in_chans", "num_classes", "class_token", "reg_tokens", "init_values"),
    *("no_embed_class", "qkv_bias", "fc_norm", "dynamic_img_size", "strict_img_size"),
    *("drop_rate", "drop_path_rate", "proj_drop_rate", "pos_drop_rate"),
    *("attn_drop_rate", "patch_drop_rate", "weight_init", "fix_init"),
}
# Arguments that change the outputs, with the values that a plain ViT has.
_PLAIN: dict[str, tuple] = {
    "act_layer": (None, *_ACTIVATIONS),
    "global_pool": (None, *_POOLINGS),
    "pos_embed": ("learn", "none", ""),
    "final_norm": (True,),
    "proj_bias": (True,),
    "norm_layer": (None, "layernorm"),
    **dict.fromkeys(
        ("pre_norm", "qk_norm", "scale_attn_norm", "scale_mlp_norm"), (False, None)
    ),
    **dict.fromkeys(("pool_include_prefix", "dynamic_img_pad", "use_naflex"), (False,)),
    **dict.fromkeys(
        ("embed_layer", "embed_norm_layer", "block_fn", "mlp_layer", "attn_layer"),
        (None,),
    ),
}
# Entries of `pretrained_cfg` that do not affect evaluation at the trained image size.
_DESCRIPTIVE = {
    *("url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "tag"),
    *("architecture", "custom_load", "test_input_size", "min_input_size"),
    *("fixed_input_size", "test_crop_pct", "num_classes", "label_names"),
    *("label_descriptions", "labels", "pool_size", "test_pool_size", "first_conv"),
    *("classifier", "license", "description", "origin_url", "paper_name", "paper_ids"),
    *("notes", "input_size"),
}
_EVALUATION = {"mean", "std", "interpolation", "crop_pct", "crop_mode", "label_offset"}
# Entries of config.json beside `pretrained_cfg`; older files have everything in one dict.
_AROUND = {
    *("architecture", "num_features", "num_classes", "global_pool", "model_args"),
    *("label_names", "label_descriptions", "pretrained_cfg"),
}


def _read_config(path):
    """Read timm's config.json in the directory of `path`.

    Returns:
        dict in timm's current format, also for older files; empty if there is no
        config.json of timm.
    """
    config = read_json(os.path.dirname(path), "config.json")
    if "architecture" not in config:
        return {}
    if "pretrained_cfg" not in config:
        inner = {key: value for key, value in config.items() if key not in _AROUND}
        config = {**config, "pretrained_cfg": inner}
    for key, kind in (
        ("architecture", str),
        ("model_args", dict),
        ("pretrained_cfg", dict),
    ):
        if not isinstance(config.setdefault(key, {}) or kind(), kind):
            raise ValueError(
                f"{key} must be a {kind.__name__} in the config.json beside {path}; "
                f"received {config[key]!r}."
            )
    return config


class TimmSource(Source):
    """Checkpoint source for `.safetensors` and `.pth` files with timm's tensor names.

    Some architectures have exactly the same tensors as another one, so the tensors do not
    always determine the network. A `config.json` beside the file, as on the Hugging Face
    Hub, names the architecture. Without it, the caller must name the architecture or pass
    the arguments that differ; otherwise an ambiguous file raises an error.

    Without `config.json`, the default preprocessing scales pixels to the range -1 to 1,
    which is wrong for DeiT.

    Args:
        file: the opened file.
        architecture: str, timm's name for the network, which replaces the one in
            `config.json`, or None.

    Raises:
        ValueError: if the network is not known to be a plain ViT.
    """

    kind = "timm ViT"
    head_names = ("head.", "head_dist.")
    published_heads = HEADS
    resize = "bicubic_antialias"
    possible = {  # noqa: RUF012
        "positions": ("learned", "sincos_2d", "none"),
        "representation_size": (None,),
    }

    def __init__(self, file, architecture=None):
        super().__init__(file)
        self._stored: dict[str, str] = {}
        self.shapes = {}
        for stored, shape in file.shapes.items():
            if stored == "mask_token":
                continue  # DINOv2 uses this tensor only for training.
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
        self._stem = self._infer_stem()
        self.stem_stride = 1 if self._stem is None else self._stem.strides
        self._config = _read_config(self.path)
        self._arguments = self._config.get("model_args") or {}
        self._published = self._config.get("pretrained_cfg") or {}
        self._architecture = self._find_architecture(architecture)
        if self._architecture is not None:
            self._check_arguments()
            self.num_heads = self._arguments.get(
                "num_heads", self._architecture.num_heads
            )
            activation = self._arguments.get("act_layer")
            activation = activation or self._architecture.activation
            self.activation = _ACTIVATIONS[activation]
        size = self._arguments.get("img_size")
        if size is None and "input_size" in self._published:
            size = self._published["input_size"][1:]
        if size is not None:
            height, width = (size, size) if isinstance(size, int) else size
            self.image_size = (height, width)

    def _infer_stem(self):
        """Return the ResNet stem that the tensors show, or None."""
        self._root = next(filter(_ROOT.fullmatch, self.shapes), None)
        if self._root is None:
            return None
        units = collections.Counter(
            int(found[1]) for name in self.shapes if (found := _UNIT.fullmatch(name))
        )
        num_blocks = tuple(units.get(stage, 0) for stage in range(len(units)))
        width = self.shapes[self._root][0]
        return ResNetStem(num_blocks, width, epsilons="timm", name="stem")

    def _find_architecture(self, given):
        """Look up the architecture by the caller's name or the one in config.json.

        Args:
            given: str, the caller's name for the architecture, or None.

        Returns:
            An `Architecture`, or None if neither the caller nor config.json names one.
        """
        name = given or self._config.get("architecture")
        if not name:
            return None
        found = find_architecture(name)
        if found is not None:
            return found
        if given is not None:
            raise ValueError(
                f"architecture={given!r} is not one of timm's that keras_vit knows to be "
                f"a plain ViT. The closest of these: {similar_architectures(given)}."
            )
        raise self._other_network([f"architecture {name!r}"])

    def _check_arguments(self):
        """Raise a `ValueError` if config.json changes the network into another one."""
        other = [
            f"{name}={value!r}"
            for name, value in self._arguments.items()
            if name not in _SHOWN and (name not in _PLAIN or value not in _PLAIN[name])
        ]
        pooling = self._config.get("global_pool")
        if pooling is not None and pooling not in _POOLINGS:
            other.append(f"global_pool={pooling!r}")
        if other:
            raise self._other_network(other)

    def _other_network(self, what):
        return ValueError(
            f"The config.json beside {self.path} describes a network that keras_vit "
            f"does not have, or does not know ({', '.join(what)}). Its tensors might "
            "load but give other outputs. If it computes exactly the same as another "
            "architecture of timm, pass the name of that one: architecture=..."
        )

    @functools.cached_property
    def preprocessing(self):
        """Arguments of `Preprocessor` equivalent to timm's evaluation preprocessing."""
        published = {k: v for k, v in self._published.items() if v is not None}
        if not published:
            return {}
        mode = published.get("crop_mode", "center")
        crop = published.get("crop_pct") or 0.875
        resize = f"{published.get('interpolation') or 'bicubic'}_antialias"
        other = sorted(set(published) - _DESCRIPTIVE - _EVALUATION)
        other = [f"{key}={published[key]!r}" for key in other]
        if published.get("label_offset"):
            other.append(f"label_offset={published['label_offset']!r}")
        if resize not in RESIZES:
            other.append(f"interpolation={published['interpolation']!r}")
        if mode == "squash" and crop == 1:
            crop = None  # Resize the whole image, ignoring its aspect ratio.
        elif mode != "center" or not 0 < crop <= 1:
            other.append(f"crop_mode={mode!r} with crop_pct={crop!r}")
        if other:
            raise self.not_honored(
                os.path.join(os.path.dirname(self.path), "config.json"), other
            )
        mean = published.get("mean") or [x / 255 for x in IMAGENET_MEAN]
        std = published.get("std") or [x / 255 for x in IMAGENET_STD]
        return {
            "mean": [255 * x for x in mean],
            "std": [255 * x for x in std],
            "crop_fraction": crop,
            "resize": resize,
        }

    def _labels(self):
        names = self._config.get("label_names") or self._published.get("label_names")
        return names or self._published.get("labels")

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
        shapes = self.shapes
        if "dist_token" in shapes and ("reg_token" in shapes or "fc_norm.bias" in shapes):
            raise ValueError(
                f"{self.path} has a distillation token beside "
                f"{'reg_token' if 'reg_token' in shapes else 'fc_norm'}, which timm's "
                "distilled networks store and do not use: keras_vit has no such network."
            )
        if "pos_embed" not in shapes and self._arguments.get("pos_embed") not in (
            "none",
            "",
        ):
            raise ValueError(
                f"{self.path} has no position embeddings (pos_embed). Networks like that "
                "compute rotary positions instead (DINOv3 and others), which keras_vit "
                "does not have: this file cannot be loaded."
            )

    def _check_shown(self, overrides, has_rows):
        """Raise a `ValueError` if another network has the same tensors.

        Args:
            overrides: dict of arguments that the caller passes, which may determine the
                network.
            has_rows: bool, whether prefix tokens have rows in the table of position
                embeddings.
        """
        if self._architecture is not None or self.published:
            return
        shapes = self.shapes
        bare = "cls_token" not in shapes and "blocks.0.ls1.gamma" not in shapes
        has_bias = "blocks.0.attn.qkv.bias" in shapes
        after = "fc_norm.bias" in shapes
        if "cls_token" in shapes and not has_rows and "reg_token" not in shapes:
            self._ask(
                overrides,
                "positions",
                "whether it has only learned positions (DeiT III) or rotary ones too "
                "(vit_*_rope_ape_224, which keras_vit does not have)",
                "positions='learned' if it has only learned ones",
            )
        if "attn_pool.latent" in shapes and "reg_token" in shapes:
            self._ask(
                overrides,
                "pooling",
                "whether it pools over its registers, which keras_vit does not do",
                "pooling='map' if it pools over the patches alone",
            )
        if bare and not has_bias and after:
            self._ask(
                overrides,
                "architecture",
                "whether its norms come before the branches of a block or after them "
                "(vit_base_patch16_rpn_224, which keras_vit does not have)",
            )
        if bare and has_bias and not after:
            self._ask(
                overrides,
                "activation",
                "which GELU it has (those of SigLIP differ)",
                "activation='gelu' or 'gelu_tanh'",
            )

    def _ask(self, overrides, argument, question, answer=None):
        """Raise a `ValueError` that asks for an argument unless the caller passes it."""
        if overrides.get(argument) is None:
            raise ValueError(
                f"No tensor in {self.path} shows {question}. Pass "
                f"{f'{answer}, or ' if answer else ''}architecture=... with timm's name "
                "for the network; or put timm's config.json beside the file."
            )

    def _num_heads(self, overrides, width):
        # vit_base_patch16_gap_224 has 16 heads, SigLIP networks of the same width 12.
        bare = {"cls_token", "fc_norm.bias", "attn_pool.latent"}.isdisjoint(self.shapes)
        known = overrides.get("num_heads") or self.num_heads or self.published
        if width == 768 and bare and not known:
            raise ValueError(
                f"No tensor in {self.path} shows the number of attention heads: "
                "networks of width 768 that average their patches have 12 or 16. Pass "
                "num_heads=..."
            )
        return self.heads(overrides, width)

    def _check_grid(self, overrides):
        """Raise a `ValueError` if config.json contradicts the position embeddings."""
        if self.image_size is None or overrides.get("source_grid_shape") is not None:
            return
        patch, channels = self.patches()
        patch *= self.stem_stride
        if "input_shape" not in overrides and any(s % patch for s in self.image_size):
            height, width = (side // patch * patch for side in self.image_size)
            raise ValueError(
                f"The config.json beside {self.path} says that images have "
                f"{self.image_size[0]}x{self.image_size[1]} pixels, which patches of "
                f"{patch}x{patch} do not divide; timm ignores the rest. Pass "
                f"input_shape={(height, width, channels)}."
            )
        rows = self.num_position_rows()
        sizes = [self.image_size, overrides.get("input_shape", (0, 0))[:2]]
        grids = {(height // patch) * (width // patch) for height, width in sizes}
        if not grids & {rows - prefix for prefix in self.position_prefixes()}:
            height, width = self.image_size
            raise ValueError(
                f"The config.json beside {self.path} says that images have "
                f"{height}x{width} pixels, a grid of {height // patch}x{width // patch} "
                f"patches, but the table of positions has {rows} rows. Pass "
                "source_grid_shape=(rows, columns), the grid that it is for."
            )

    def infer_config(self, overrides):
        shapes = self.shapes
        width = shapes["patch_embed.proj.weight"][0]
        class_token = "cls_token" in shapes
        after_pooling = "fc_norm.weight" in shapes
        config: dict[str, Any] = {
            "patch_size": shapes["patch_embed.proj.weight"][2],
            "hidden_dim": width,
            "num_layers": sum(name.endswith("attn.qkv.weight") for name in shapes),
            "num_heads": self._num_heads(overrides, width),
            "mlp_dim": shapes["blocks.0.mlp.fc1.weight"][0],
            "pooling": self._pooling(overrides),
            "class_token": class_token,
            "distillation_token": "dist_token" in shapes,
            "final_norm": "after_pooling" if after_pooling else "before_pooling",
            "positions": "learned" if "pos_embed" in shapes else "none",
            "registers": shapes["reg_token"][1] if "reg_token" in shapes else 0,
            # This is the initial value; the trained values come from the file.
            "layer_scale": 1e-5 if "blocks.0.ls1.gamma" in shapes else None,
            "qkv_bias": "blocks.0.attn.qkv.bias" in shapes,
            "activation": self.activation,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }
        if self._stem is not None:
            config["stem"] = self._stem
        if "head.bias" in shapes:
            config["classes"] = shapes["head.bias"][0]
        else:
            config["include_top"] = False
        if "pos_embed" in shapes:
            self._check_grid(overrides)
            config |= self.square_input_shape(overrides)
        elif self.image_size is not None:
            config["input_shape"] = (*self.image_size, self.patches()[1])
        self._check_shown(overrides, config.get("class_token_position", False))
        return config

    def _pooling(self, overrides):
        stated = [part.get("global_pool") for part in (self._config, self._arguments)]
        poolings = [pooling for pooling in stated if pooling is not None]
        if len(set(poolings)) > 1 and overrides.get("pooling") is None:
            raise ValueError(
                f"The config.json beside {self.path} has global_pool={poolings[0]!r}, "
                f"and {poolings[1]!r} in its model_args. Pass the right one as "
                "pooling='token', 'gap' or 'map'."
            )
        pooling = poolings[0] if poolings else None
        if pooling is None and self._architecture is not None:
            pooling = self._architecture.pooling
        if pooling == "" and "head.bias" in self.shapes:
            raise self._other_network(["global_pool='' with a head"])
        if pooling is not None:
            return _POOLINGS[pooling]
        if "attn_pool.latent" in self.shapes:
            return "map"
        token = "cls_token" in self.shapes and "fc_norm.weight" not in self.shapes
        return "token" if token else "gap"

    def patches(self):
        *_, patch = self.shapes["patch_embed.proj.weight"]
        _, channels, *_ = self.shapes[self._root or "patch_embed.proj.weight"]
        return patch, channels

    def num_position_rows(self):
        return self.shapes["pos_embed"][1] if "pos_embed" in self.shapes else None

    def position_prefixes(self):
        tokens = ("cls_token" in self.shapes) + ("dist_token" in self.shapes)
        registers = self.shapes["reg_token"][1] if "reg_token" in self.shapes else 0
        # The table has rows for all prefix tokens, for all except the registers (DINOv2),
        # or for none of them (`no_embed_class`).
        return tokens + registers, tokens, 0

    def pieces(self, config):
        norm = "fc_norm" if config["final_norm"] == "after_pooling" else "norm"
        pieces = TorchPieces()
        if config["stem"] is not None:
            config = self._add_stem(pieces, config)
        add_vit(pieces, {**_NAMES, "norm": norm}, "blocks.{}.".format, config)
        if config["include_top"]:
            d, classes = config["hidden_dim"], config["classes"]
            pieces.dense("head", "classifier", d, classes)
            if config["distillation_token"]:
                pieces.dense("head_dist", "distillation_classifier", d, classes)
        return pieces

    def _add_stem(self, pieces, config):
        root = self._root or "patch_embed.backbone.stem.conv.weight"
        root = root.removesuffix(".weight")
        names = {"root": root, "root_norm": f"{root.removesuffix('conv')}norm", **_STEM}
        return add_stem(pieces, names, config, "timm")
