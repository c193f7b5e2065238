"""Released T2T-ViT checkpoints."""

import functools
import math
import re
from typing import Any

import numpy as np

from keras_vit.layers.positions import sinusoids
from keras_vit.layers.preprocessor import IMAGENET_MEAN, IMAGENET_STD
from keras_vit.weights.patch_kernels import adapt_channels
from keras_vit.weights.pieces import POSITIONS, PROJECTION, Piece, TorchPieces
from keras_vit.weights.source import Source

# Preprocessing that the original code uses for evaluation at every image size.
PREPROCESSING = {
    "mean": IMAGENET_MEAN,
    "std": IMAGENET_STD,
    "resize": "bicubic_antialias",
    "crop_fraction": 0.9,
}

# Number of attention heads by width, which no tensor shows. Width 128 is T2T-ViT-Dense.
_HEADS = {128: 8, 256: 4, 384: 6, 448: 7, 512: 8, 768: 12}
# Backbones, with a tensor of the first block by which each is recognized.
_SIGNS = {
    "se": "blocks.0.attn.se_layer.fc.0.weight",
    "ghost": "blocks.0.attn.cheap_operation_q.weight",
    "dense": "blocks.0.dense_linear.weight",
}
# Side lengths of the patches that each module of the stem sees.
_SPLIT = {"attention1": 7, "attention2": 3, "project": 3}


class T2TSource(Source):
    """Checkpoint source for T2T-ViT's `.pth.tar` files, with any stem and backbone.

    The attention logits are scaled by `head_dim ** -0.5`, as in training. The original
    code sets another scale for `pretrained=True`, which reduces the accuracy.
    """

    kind = "T2T-ViT"
    head_names = ("head.",)
    published_heads = _HEADS
    activation = "gelu"
    layer_norm_epsilon = 1e-5
    possible = {  # noqa: RUF012
        "tokens": ("performer", "transformer"),
        "positions": ("sincos_1d",),
        "class_token": (True,),
        "class_token_position": (True,),
        "distillation_token": (False,),
        "registers": (0,),
        "layer_scale": (None,),
        "representation_size": (None,),
        "pooling": ("token", "gap", None),
    }

    @functools.cached_property
    def preprocessing(self):
        return dict(PREPROCESSING)

    def check(self):
        self.check_ranks(
            {
                "cls_token": 3,
                "pos_embed": 3,
                "tokens_to_token.attention1.norm1.weight": 1,
                "tokens_to_token.project.weight": 2,
                "blocks.0.mlp.fc2.weight": 2,
            },
            {"head.bias": 1, "tokens_to_token.attention1.w": 2, _SIGNS["dense"]: 2},
        )

    def infer_config(self, overrides):
        shapes = self.shapes
        width = shapes["cls_token"][-1]
        backbone = next((b for b, sign in _SIGNS.items() if sign in shapes), "plain")
        performer = "tokens_to_token.attention1.w" in shapes
        config: dict[str, Any] = {
            "hidden_dim": width,
            "num_layers": self._num_layers(),
            "num_heads": self.heads(overrides, width),
            "mlp_dim": shapes["blocks.0.mlp.fc2.weight"][1],
            "tokens": "performer" if performer else "transformer",
            "token_dim": shapes["tokens_to_token.project.weight"][1] // 9,
            "backbone": backbone,
            "class_token": True,
            "qkv_bias": "blocks.0.attn.qkv.bias" in shapes,
        }
        if backbone == "dense":
            config["growth_rate"] = shapes[_SIGNS["dense"]][0]
        if "head.bias" in shapes:
            config["classes"] = shapes["head.bias"][0]
        else:
            config["include_top"] = False
        side = math.isqrt(shapes["pos_embed"][1] - 1)
        if side**2 == shapes["pos_embed"][1] - 1:
            config["input_shape"] = (16 * side, 16 * side, self._channels())
        return config

    def _num_layers(self):
        """Return the number of blocks.

        Returns:
            int; for the dense backbone, a tuple with the number of blocks in each stage.
        """
        stages = [0]
        for name in self.shapes:
            if re.fullmatch(r"blocks\.\d+\.norm1\.weight", name):
                stages[-1] += 1
            elif re.fullmatch(r"blocks\.\d+\.linear\.weight", name):
                stages.append(0)
        return tuple(stages) if _SIGNS["dense"] in self.shapes else stages[0]

    def _channels(self):
        return self.shapes["tokens_to_token.attention1.norm1.weight"][0] // 49

    def patches(self):
        return 1, self._channels()

    def num_position_rows(self):
        # The sinusoidal table is recomputed for another grid instead of being resized.
        return None

    def position_prefixes(self):
        return (1,)

    def read(self, read, name):
        """Return the array of a tensor.

        The original flattens a patch in the order (channel, row, column). Tensors that
        act on flattened patches are reordered to (row, column, channel).
        """
        array = read(name)
        module, _, rest = name.removeprefix("tokens_to_token.").partition(".")
        if not name.startswith("tokens_to_token.") or not (
            (module == "project" and rest == "weight")
            or rest.startswith(("norm1.", "kqv.weight", "attn.qkv.weight"))
        ):
            return array
        side = _SPLIT[module]
        split = array.reshape(*array.shape[:-1], -1, side, side)
        return np.moveaxis(split, -3, -1).reshape(array.shape)

    def values(self, config, *how, **loading):
        if "tokens" not in config:
            raise ValueError(
                f"{self.path} is a T2T-ViT checkpoint: use keras_vit.T2TViT, or "
                "keras_vit.load_checkpoint, which builds the model that fits."
            )
        return self._adapted(super().values(config, *how, **loading), config)

    def _adapted(self, values, config):
        """Adapt position embeddings and channels to the model, weight by weight."""
        rows = 1 + math.prod(config["grid_shape"])
        old, new = self._channels(), config["input_shape"][-1]
        for path, array in values:
            if path == POSITIONS and array.shape[1] != rows:
                array = sinusoids(rows, array.shape[2])
            if old != new:
                array = adapt_t2t_channels(path, array, old, new)
            yield path, array

    def pieces(self, config):
        d, e = config["hidden_dim"], config["token_dim"]
        performer = config["tokens"] == "performer"
        pieces = TorchPieces()
        widths = (49 * config["input_shape"][-1], 9 * e)
        for i, width in enumerate(widths):
            name = f"tokens_to_token.attention{i + 1}"
            path = f"stem/{config['tokens']}_{i}"
            pieces.norm(f"{name}.norm1", f"{path}/attention_norm", width)
            attention, mlp = f"{name}.attn", (f"{name}.mlp.fc1", f"{name}.mlp.fc2")
            qkv = f"{attention}.qkv"
            if performer:
                attention, mlp = name, (f"{name}.mlp.0", f"{name}.mlp.2")
                qkv = f"{attention}.kqv"
                pieces.plain(f"{name}.w", f"{path}/features", (e // 2, e))
            pieces.dense(qkv, f"{path}/qkv", width, 3 * e, performer)
            pieces.dense(f"{attention}.proj", f"{path}/projection", e, e)
            pieces.norm(f"{name}.norm2", f"{path}/mlp_norm", e)
            pieces.dense(mlp[0], f"{path}/mlp/expand", e, e)
            pieces.dense(mlp[1], f"{path}/mlp/contract", e, e)
        projection = PROJECTION.removesuffix("/kernel")
        pieces.dense("tokens_to_token.project", projection, 9 * e, d)
        pieces.plain("cls_token", "patch_encoder/class_token", (1, 1, d))
        pieces.plain("pos_embed", POSITIONS, (1, self.shapes["pos_embed"][1], d))
        width = self._blocks(pieces, config)
        pieces.norm("norm", "norm", width)
        if config["include_top"]:
            pieces.dense("head", "classifier", width, config["classes"])
        return pieces

    def _blocks(self, pieces, config):
        """Add the tensors of all blocks and return the width after the last block."""
        width, dense = config["hidden_dim"], config["backbone"] == "dense"
        stages = config["num_layers"] if dense else (config["num_layers"],)
        # `number` is the original's index, which counts transitions as blocks.
        number = block = 0
        for stage, depth in enumerate(stages):
            if stage:
                transition = (f"blocks.{number}.linear", f"transition_{block}")
                pieces.dense(*transition, width, width // 2)
                width //= 2
                number += 1
            for _ in range(depth):
                _block(pieces, f"blocks.{number}", f"block_{block}", width, config)
                if dense:
                    growth = (f"blocks.{number}.dense_linear", f"block_{block}/growth")
                    pieces.dense(*growth, width, config["growth_rate"])
                    width += config["growth_rate"]
                number += 1
                block += 1
        return width


def _block(pieces, name, path, width, config):
    """Add the tensors of one block, except those that only the dense backbone has."""
    mlp_dim = width * config["mlp_dim"] // config["hidden_dim"]
    ghost, qkv_bias = config["backbone"] == "ghost", config["qkv_bias"]
    pieces.norm(f"{name}.norm1", f"{path}/attention_norm", width)
    qkv, half = f"{path}/attention/qkv", width // 2
    if ghost:
        names = tuple(f"{name}.attn.{part}" for part in "qkv")
        pieces.dense(names, f"{qkv}/dense", width, half, qkv_bias)
        copies = [f"{name}.attn.cheap_operation_{part}.weight" for part in "qkv"]
        pieces.append(Piece(f"{qkv}/scale", tuple(copies), (half, 1, 1), (half,)))
    else:
        pieces.dense(f"{name}.attn.qkv", qkv, width, 3 * width, qkv_bias)
    pieces.dense(f"{name}.attn.proj", f"{path}/attention/projection", width, width)
    if config["backbone"] == "se":
        excitation = f"{path}/attention/squeeze_excitation"
        inner = width // 16
        se = f"{name}.attn.se_layer.fc"
        pieces.dense(f"{se}.0", f"{excitation}/squeeze", width, inner, bias=False)
        pieces.dense(f"{se}.2", f"{excitation}/excite", inner, width, bias=False)
    pieces.norm(f"{name}.norm2", f"{path}/mlp_norm", width)
    if ghost:
        pieces.dense(f"{name}.mlp.fc1", f"{path}/mlp/expand/dense", width, width)
        copies = [
            f"{name}.mlp.cheap_operation{i}.weight"
            for i in range(2, mlp_dim // width + 1)
        ]
        scale = f"{path}/mlp/expand/scale"
        pieces.append(Piece(scale, tuple(copies), (width, 1, 1), (width,)))
    else:
        pieces.dense(f"{name}.mlp.fc1", f"{path}/mlp/expand", width, mlp_dim)
    pieces.dense(f"{name}.mlp.fc2", f"{path}/mlp/contract", mlp_dim, width)


def adapt_t2t_channels(path: str, array: np.ndarray, old: int, new: int) -> np.ndarray:
    """Adapt a weight to images with another number of channels.

    Only the weights that act directly on patches of the image change: the kernel is
    adapted by `adapt_channels`, and the vectors of the norm are averaged over the
    channels or repeated. A gray image then gives nearly the same tokens as the RGB image
    with three equal channels, and exactly the same tokens if the norm treats all channels
    equally.

    Args:
        path: str, path of the weight.
        array: value of the weight.
        old: int, number of channels that `array` is for.
        new: int, number of channels of the model.

    Returns:
        Array, which is `array` itself for all weights except those of the first layer.
    """
    if not re.match(r"stem/(transformer|performer|convolution)_0/", path):
        return array
    if "/attention_norm/" in path:
        # `adapt_channels` keeps the sum over the channels; the factor turns it into the
        # mean.
        vector = adapt_channels(array.reshape(7, 7, old, 1), new) * (new / old)
        return vector.reshape(-1)
    if path.endswith(("/qkv/kernel", "convolution_0/kernel")):
        kernel = adapt_channels(array.reshape(7, 7, old, -1), new)
        kernel = kernel.reshape(-1, array.shape[-1])
        if path.startswith("stem/transformer_0/"):
            # This layer divides its logits by the square root of the width of its input,
            # which depends on the channels. Scaling the queries compensates for that.
            third = kernel.shape[1] // 3
            kernel[:, :third] *= math.sqrt(new / old)
        return kernel
    return array
