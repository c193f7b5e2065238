"""Google's ViT and hybrid checkpoints: `.npz` files of Flax parameters.

Two naming schemes exist. The original, AugReg and SAM releases share the `"published"`
names. Checkpoints of big_vision use the default names of Flax's Linen API (`LayerNorm_1`
for `LayerNorm_2`, and so on), may have a prefix such as `params/` or `opt/target/`, and
may stack the weights of all blocks in one array.
"""

import os
import re
from typing import Any

import numpy as np

from keras_vit.layers.resnet import ResNetStem
from keras_vit.weights.pieces import POSITIONS, Pieces, add_stem, add_vit
from keras_vit.weights.source import Source

_BLOCK = "Transformer/encoderblock_"
_STACKED = "Transformer/encoderblock/"
_POSITIONS = "Transformer/posembed_input/pos_embedding"
_AT_THE_TOP = "pos_embedding"  # The position embeddings of big_vision since 2022.
_KERNEL = "embedding/kernel"


def _block_names(attention, mlp_norm, mlp):
    return {
        "attention_norm": "LayerNorm_0",
        "attention/qkv": tuple(f"{attention}/{x}" for x in ("query", "key", "value")),
        "attention/projection": f"{attention}/out",
        "mlp_norm": mlp_norm,
        "mlp/expand": f"{mlp}/Dense_0",
        "mlp/contract": f"{mlp}/Dense_1",
    }


_ATTENTION = "MultiHeadDotProductAttention"
_BLOCKS = {
    "published": _block_names(f"{_ATTENTION}_1", "LayerNorm_2", "MlpBlock_3"),
    "linen": _block_names(f"{_ATTENTION}_0", "LayerNorm_1", "MlpBlock_0"),
}
_POOLING = f"MAPHead_0/{_ATTENTION}_0"
_NAMES = {
    "patches": "embedding",
    "class_token": "cls",
    "positions": _POSITIONS,
    "norm": "Transformer/encoder_norm",
    "probe": "MAPHead_0/probe",
    "pooling": {
        "query": f"{_POOLING}/query",
        "key_value": (f"{_POOLING}/key", f"{_POOLING}/value"),
        "projection": f"{_POOLING}/out",
        "norm": "MAPHead_0/LayerNorm_0",
        "mlp/expand": "MAPHead_0/MlpBlock_0/Dense_0",
        "mlp/contract": "MAPHead_0/MlpBlock_0/Dense_1",
    },
}

_STEM = {
    "root": "conv_root",
    "root_norm": "gn_root",
    "unit": lambda stage, unit: f"block{stage + 1}/unit{unit + 1}/",
    **{f"conv_{i}": f"conv{i}" for i in (1, 2, 3)},
    **{f"norm_{i}": f"gn{i}" for i in (1, 2, 3)},
    "projection": "conv_proj",
    "projection_norm": "gn_proj",
}
# Prefixes of the model's tensors in checkpoints of big_vision, and the tensors beside the
# model that are ignored: optimizer state, counters, and the text tower of an image-text
# model.
_PREFIXES = ("", "params/img/", "params/", "opt/target/img/", "opt/target/")
_BESIDE = re.compile(
    r"(opt/state|opt/\d+/|extra|chrono|params/(txt/|t$|b$)|opt/target/(txt/|t$|b$))"
)


def pieces(config: dict[str, Any], names: str) -> Pieces:
    """Return the tensors of a Google checkpoint, in the order of the data flow.

    Args:
        config: dict, as for `Source.pieces`.
        names: str, the naming scheme, `"published"` or `"linen"`.
    """
    found = Pieces()
    if config["stem"] is not None:
        config = add_stem(found, _STEM, config, "google")
    layers = {**_NAMES, "block": _BLOCKS[names]}
    add_vit(found, layers, f"{_BLOCK}{{}}/".format, config)
    if config["include_top"]:
        width = config["hidden_dim"]
        if config["representation_size"] is not None:
            found.dense("pre_logits", "pre_logits", width, config["representation_size"])
            width = config["representation_size"]
        found.dense("head", "classifier", width, config["classes"])
    return found


class GoogleSource(Source):
    """Checkpoint source for Google's `.npz` files of ViTs and hybrids.

    Args:
        file: the opened file.

    Raises:
        ValueError: if the file has unknown tensors beside the model, or two tensors for
            the same weight.
    """

    kind = "Google ViT"
    head_names = ("head/", "pre_logits/")
    possible = {  # noqa: RUF012
        "pooling": ("token", "gap", "map", None),
        "positions": ("learned", "sincos_2d", "none"),
        "registers": (0,),
        "layer_scale": (None,),
        "qkv_bias": (True,),
        "final_norm": ("before_pooling",),
        "distillation_token": (False,),
    }
    # The file does not state the activation; this is the default of Flax's `gelu`.
    activation = "gelu_tanh"
    resize = "google"
    has_default_pixels = True

    def __init__(self, file):
        super().__init__(file)
        self._stored: dict[str, tuple[str, int | None]] = {}
        self.shapes = {}
        prefix = self._prefix(file.shapes)
        for stored, shape in file.shapes.items():
            if not stored.startswith(prefix):
                if _BESIDE.match(stored):
                    continue
                raise ValueError(
                    f"{file.path} has a tensor {stored} outside of the model, whose "
                    f"tensors are under {prefix!r}. This layout is not supported."
                )
            file.check_dtype(stored, file.dtypes[stored])
            name = stored.removeprefix(prefix)
            if name == _AT_THE_TOP:
                name = _POSITIONS
            # The units of hybrids are numbered `unit1` or `unit01`.
            name = re.sub(r"/unit0+(\d)", r"/unit\1", name)
            if re.search(r"gn\w+/(scale|bias)$", name):
                shape = shape[-1:]  # Old files have leading axes of length 1.
            if name.startswith(_STACKED):
                for i in range(shape[0] if shape else 0):
                    self._add(
                        name.replace(_STACKED, f"{_BLOCK}{i}/"), shape[1:], stored, i
                    )
            else:
                self._add(name, shape, stored, None)

    def _add(self, name, shape, stored, index):
        if name in self.shapes:
            raise ValueError(f"{self.path} has {name} twice.")
        self.shapes[name] = shape
        self._stored[name] = (stored, index)

    def _prefix(self, names):
        """Return the prefix of the model's tensors."""
        for prefix in _PREFIXES:
            if prefix + _KERNEL in names:
                return prefix
        return ""

    def read(self, read, name):
        stored, index = self._stored[name]
        array = read(stored)
        return array if index is None else array[index]

    @property
    def names(self) -> str:
        """Naming scheme of the file, `"published"` or `"linen"`."""
        published = any(f"/{_ATTENTION}_1/" in name for name in self.shapes)
        return "published" if published else "linen"

    def pieces(self, config):
        return pieces(config, self.names)

    def _first_block(self):
        """Return the names of the kernels of the first query and the first MLP."""
        block = _BLOCKS[self.names]
        names = block["attention/qkv"][0], block["mlp/expand"]
        return [f"{_BLOCK}0/{name}/kernel" for name in names]

    def check(self):
        query, mlp = self._first_block()
        self.check_ranks(
            {_KERNEL: 4, query: 3, mlp: 2},
            {
                _POSITIONS: 3,
                "head/bias": 1,
                "pre_logits/bias": 1,
                "conv_root/kernel": 4,
            },
        )

    def infer_config(self, overrides):
        shapes, (query, mlp) = self.shapes, self._first_block()
        pooling = "token" if "cls" in shapes else "gap"
        if "MAPHead_0/probe" in shapes:
            pooling = "map"
        positions = "learned"
        if _POSITIONS not in shapes:
            # Without a table of position embeddings, big_vision uses sine and cosine.
            positions = "sincos_2d" if self.names == "linen" else "none"
        config: dict[str, Any] = {
            "patch_size": shapes[_KERNEL][0],
            "hidden_dim": shapes[_KERNEL][3],
            "num_layers": sum(
                name.startswith(_BLOCK) and name.endswith("query/kernel")
                for name in shapes
            ),
            "num_heads": shapes[query][1],
            "mlp_dim": shapes[mlp][1],
            "pooling": pooling,
            "class_token": "cls" in shapes,
            "positions": positions,
            "activation": self.activation,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }
        if "conv_root/kernel" in shapes:
            config["stem"] = stem = self._infer_stem()
            self.stem_stride = stem.strides
        for name, argument in (
            ("head/bias", "classes"),
            ("pre_logits/bias", "representation_size"),
        ):
            if name in shapes:
                config[argument] = shapes[name][0]
        if positions == "learned":
            config |= self.square_input_shape(overrides)
        return config

    def _infer_stem(self):
        units: dict[int, int] = {}
        for name in self.shapes:
            if found := re.match(r"block(\d+)/unit(\d+)/conv1/kernel$", name):
                stage, unit = map(int, found.groups())
                units[stage] = max(unit, units.get(stage, 0))
        num_blocks = tuple(units.get(s, 0) for s in range(1, len(units) + 1))
        return ResNetStem(
            num_blocks, width=self.shapes["conv_root/kernel"][3], name="stem"
        )

    def patches(self):
        patch = self.shapes[_KERNEL][0]
        first = "conv_root/kernel" if "conv_root/kernel" in self.shapes else _KERNEL
        return patch, self.shapes[first][2]

    def num_position_rows(self):
        return self.shapes[_POSITIONS][1] if _POSITIONS in self.shapes else None

    def position_prefixes(self):
        # big_vision adds the position embeddings before it prepends the class token, so
        # its table has no row for that token.
        return (1, 0) if "cls" in self.shapes else (0,)


def save_npz(model: Any, path: str | os.PathLike, names: str = "published") -> None:
    """Save a model as an `.npz` file that Google's code can read.

    Args:
        model: a `keras_vit.ViT`.
        path: path of the new file, which is written atomically.
        names: str, the naming scheme: `"published"`, or `"linen"` for big_vision.

    Raises:
        FileExistsError: if `path` exists.
        ValueError: if Google's code does not support the architecture of the model.
    """
    import keras

    config = model.resolved_config()
    for argument, possible in {
        "classifier": (None,),
        **GoogleSource.possible,
        "activation": (GoogleSource.activation,),
        "layer_norm_epsilon": (GoogleSource.layer_norm_epsilon,),
    }.items():
        if config[argument] not in possible:
            raise ValueError(
                f"Google's checkpoints have {argument}="
                f"{' or '.join(map(repr, possible))}; the model has "
                f"{config[argument]!r}."
            )
    if os.path.exists(path):
        raise FileExistsError(
            f"{os.fspath(path)} exists; delete it or choose another path."
        )
    weights = model.weights_by_path()
    rows = weights[POSITIONS].shape[1] if POSITIONS in weights else None
    arrays = {}
    for piece in pieces({**config, "position_rows": rows}, names):
        whole = keras.ops.convert_to_numpy(weights[piece.path]).astype("float32")
        parts = np.split(whole, len(piece.names), axis=-1)
        for name, part in zip(piece.names, parts, strict=True):
            arrays[name] = part.reshape(piece.shape)
    if names == "linen" and _POSITIONS in arrays:
        # big_vision and timm expect the position embeddings at the top level.
        arrays[_AT_THE_TOP] = arrays.pop(_POSITIONS)
    temporary = f"{os.fspath(path)}.{os.getpid()}.partial"
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.rename(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise
