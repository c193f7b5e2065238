"""Google's ViT checkpoints: `.npz` files of Flax parameters.

The names are those of the original and AugReg releases, or the ones that Linen gives
(`LayerNorm_1` for `LayerNorm_2`, and so on).
"""

import math
import os
import warnings
import zipfile
from typing import Any, NamedTuple

import numpy as np

from keras_vit.layers.resize import resize_positions
from keras_vit.weights.strict import check_tensors

_BLOCK = "Transformer/encoderblock_"
_POSITIONS = "Transformer/posembed_input/pos_embedding"

# What a block's modules are called: in the published files, and by Linen.
_PUBLISHED = {
    "attention_norm": "LayerNorm_0",
    "attention": "MultiHeadDotProductAttention_1",
    "mlp_norm": "LayerNorm_2",
    "mlp": "MlpBlock_3",
}
_LINEN = {
    "attention_norm": "LayerNorm_0",
    "attention": "MultiHeadDotProductAttention_0",
    "mlp_norm": "LayerNorm_1",
    "mlp": "MlpBlock_0",
}

# Constructor arguments that a plain Google ViT has only with these values.
_POSSIBLE = {
    "pooling": ("token", "gap", None),
    "positions": ("learned", "sincos_2d", "none"),
    "registers": (0,),
    "layer_scale": (None,),
    "qkv_bias": (True,),
    "final_norm": ("before_pooling",),
}


class _Tensor(NamedTuple):
    """One tensor of the file, and where it goes."""

    name: str
    shape: tuple
    path: str  # of the weight
    stored_shape: tuple  # of the weight, or of its third for q, k and v


def _tensors(config, block_names, num_positions):
    """The tensors that a model with this configuration needs, in file names."""
    d, heads, mlp_dim = config["hidden_dim"], config["num_heads"], config["mlp_dim"]
    p, c = config["patch_size"], config["input_shape"][-1]
    tensors = []

    def add(name, shape, path, stored_shape=None):
        tensors.append(_Tensor(name, shape, path, stored_shape or shape))

    def dense(name, path, inputs, outputs):
        add(f"{name}/kernel", (inputs, outputs), f"{path}/kernel")
        add(f"{name}/bias", (outputs,), f"{path}/bias")

    def norm(name, path):
        add(f"{name}/scale", (d,), f"{path}/gamma")
        add(f"{name}/bias", (d,), f"{path}/beta")

    projection = "patch_encoder/projection"
    add("embedding/kernel", (p, p, c, d), f"{projection}/kernel", (p * p * c, d))
    add("embedding/bias", (d,), f"{projection}/bias")
    if config["class_token"]:
        add("cls", (1, 1, d), "patch_encoder/class_token")
    if config["positions"] == "learned":
        shape = (1, num_positions, d)
        add(_POSITIONS, shape, "patch_encoder/positions/embedding")
    for i in range(config["num_layers"]):
        source = {key: f"{_BLOCK}{i}/{name}" for key, name in block_names.items()}
        target = f"block_{i}"
        norm(source["attention_norm"], f"{target}/attention_norm")
        for part in ("query", "key", "value"):
            name, path = f"{source['attention']}/{part}", f"{target}/attention/qkv"
            add(f"{name}/kernel", (d, heads, d // heads), f"{path}/kernel", (d, d))
            add(f"{name}/bias", (heads, d // heads), f"{path}/bias", (d,))
        name, path = f"{source['attention']}/out", f"{target}/attention/projection"
        add(f"{name}/kernel", (heads, d // heads, d), f"{path}/kernel", (d, d))
        add(f"{name}/bias", (d,), f"{path}/bias")
        norm(source["mlp_norm"], f"{target}/mlp_norm")
        dense(f"{source['mlp']}/Dense_0", f"{target}/mlp/expand", d, mlp_dim)
        dense(f"{source['mlp']}/Dense_1", f"{target}/mlp/contract", mlp_dim, d)
    norm("Transformer/encoder_norm", "norm")
    if config["include_top"]:
        width = d
        if config["representation_size"] is not None:
            width = config["representation_size"]
            dense("pre_logits", "pre_logits", d, width)
        dense("head", "classifier", width, config["classes"])
    return tensors


def _in_head(name):
    return name.startswith(("head/", "pre_logits/"))


class GoogleCheckpoint:
    """An `.npz` file of a plain ViT as Google publishes them.

    Opening reads the names and shapes only.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a whole `.npz`, or holds something other than
            arrays of floats.
    """

    # What the file does not say, and its code does.
    activation = "gelu_tanh"
    layer_norm_epsilon = 1e-6
    resize = "google"

    def __init__(self, path: str | os.PathLike):
        self.path = os.fspath(path)
        if not os.path.isfile(self.path):
            raise FileNotFoundError(
                f"No checkpoint at {self.path!r}: weights takes the path of a file."
            )
        self.shapes: dict[str, tuple[int, ...]] = {}
        with self._open() as archive:
            for member in archive.namelist():
                try:
                    with archive.open(member) as file:
                        shape, dtype = _read_header(file)
                except Exception as error:
                    # zipfile, zlib and NumPy's parser of headers raise a dozen kinds.
                    raise self._unreadable(f"{member}: {error}") from None
                if dtype.kind != "f":
                    raise ValueError(
                        f"{member} in {self.path} holds {dtype}, not float16, float32 or "
                        "float64: not a Google ViT checkpoint that this version reads."
                    )
                self.shapes[member.removesuffix(".npy")] = shape
        if "conv_root/kernel" in self.shapes:
            raise ValueError(
                f"{self.path} is a hybrid (conv_root/kernel: a ResNet in front of the "
                "ViT); this version reads plain ViTs only."
            )

    def _unreadable(self, reason):
        return ValueError(
            f"{self.path} ({os.path.getsize(self.path)} bytes) is not a readable .npz "
            f"checkpoint: {reason}. If it was downloaded, delete it and download it "
            "again."
        )

    def _open(self):
        try:
            return zipfile.ZipFile(self.path)
        except zipfile.BadZipFile as error:
            raise self._unreadable(error) from None

    def infer_config(self) -> dict[str, Any]:
        """Constructor arguments of `ViT`, as far as the tensors tell them.

        Returns:
            Dict of arguments; `input_shape` is left out where the grid is not square.

        Raises:
            ValueError: tensors that these need are missing.
        """
        shapes = self.shapes
        names = self._block_names()
        first = f"{_BLOCK}0"
        query = f"{first}/{names['attention']}/query/kernel"
        mlp = f"{first}/{names['mlp']}/Dense_0/kernel"
        ranks = {"embedding/kernel": 4, query: 3, mlp: 2}
        optional = {_POSITIONS: 3, "head/bias": 1, "pre_logits/bias": 1}
        ranks |= {name: rank for name, rank in optional.items() if name in shapes}
        wrong = [
            f"{name} {shapes.get(name, '(not there)')}"
            for name, rank in ranks.items()
            if len(shapes.get(name, ())) != rank or 0 in shapes[name]
        ]
        if wrong:
            raise ValueError(
                f"{self.path} is not a Google ViT checkpoint. These tensors are missing "
                f"or of a wrong rank: {', '.join(wrong)}. It has {len(shapes)}: "
                f"{', '.join(sorted(shapes)[:5])}, ..."
            )
        patch, _, channels, width = shapes["embedding/kernel"]
        config: dict[str, Any] = {
            "patch_size": patch,
            "hidden_dim": width,
            "num_layers": sum(
                name.startswith(_BLOCK) and name.endswith("query/kernel")
                for name in shapes
            ),
            "num_heads": shapes[query][1],
            "mlp_dim": shapes[mlp][1],
            "pooling": "token" if "cls" in shapes else "gap",
            "class_token": "cls" in shapes,
            "positions": "learned" if _POSITIONS in shapes else "none",
            "activation": self.activation,
            "layer_norm_epsilon": self.layer_norm_epsilon,
        }
        if "head/bias" in shapes:
            config["classes"] = shapes["head/bias"][0]
        if "pre_logits/bias" in shapes:
            config["representation_size"] = shapes["pre_logits/bias"][0]
        if _POSITIONS in shapes:
            count = self._num_grid_positions("cls" in shapes)
            side = math.isqrt(count)
            if side * side == count > 0:
                config["input_shape"] = (side * patch, side * patch, channels)
        return config

    def _num_grid_positions(self, class_token):
        return self.shapes[_POSITIONS][1] - int(class_token)

    def _block_names(self):
        published = _PUBLISHED["attention"]
        if any(f"/{published}/" in name for name in self.shapes):
            return _PUBLISHED
        return _LINEN

    def _source_grid(self, config, source_grid_shape):
        """The grid of the file's positions, which the file does not tell."""
        count = self._num_grid_positions(config["class_token"])
        if count < 1:
            raise ValueError(
                f"{_POSITIONS} in {self.path} has shape {self.shapes[_POSITIONS]}: no "
                "position is left for the grid."
            )
        target = config["grid_shape"]
        side = math.isqrt(count)
        square = (side, side) if side * side == count else None
        if source_grid_shape is not None:
            gh, gw = source_grid_shape
            if gh * gw != count:
                raise ValueError(
                    f"source_grid_shape={tuple(source_grid_shape)} has {gh * gw} "
                    f"positions; {self.path} has {count}."
                )
            return gh, gw
        fits = target if math.prod(target) == count else None
        if square and fits and square != fits:
            raise ValueError(
                f"The {count} positions of {self.path} may be a grid of {square} or of "
                f"{fits}: say which with source_grid_shape=(rows, columns)."
            )
        if not (square or fits):
            raise ValueError(
                f"The {count} positions of {self.path} are no square, and the model's "
                f"grid is {target}: say which grid they are with "
                "source_grid_shape=(rows, columns)."
            )
        return square or fits

    def _check_config(self, config):
        for argument, possible in _POSSIBLE.items():
            if config[argument] not in possible:
                raise ValueError(
                    f"{self.path} is a plain Google ViT checkpoint, which goes with "
                    f"{argument}={' or '.join(map(repr, possible))}; received "
                    f"{config[argument]!r}."
                )
        for argument in ("activation", "layer_norm_epsilon"):
            if config[argument] != getattr(self, argument):
                warnings.warn(
                    f"{self.path} was trained with {argument}="
                    f"{getattr(self, argument)!r}; the model has {config[argument]!r} "
                    "and will give other outputs.",
                    stacklevel=5,
                )

    def values(
        self,
        config: dict[str, Any],
        head: str = "keep",
        resize: str | None = None,
        source_grid_shape: tuple[int, int] | None = None,
    ) -> dict[str, np.ndarray]:
        """Reads the file for a model.

        Args:
            config: dict, the constructor's arguments with `class_token` resolved, and
                `grid_shape`.
            head: `"keep"`, or `"new"` to leave the file's head aside.
            resize: name of the convention for positions; None for `"google"`.
            source_grid_shape: `(gh, gw)` of the file's positions, needed where they
                are not square and the model's grid is another.

        Returns:
            Dict from weight path to float32 array; without the head where it is not
            taken from the file.

        Raises:
            ValueError: the tensors are not exactly those that the model needs, or the
                file is damaged.
        """
        self._check_config(config)
        shapes = self.shapes
        keep_head = config["include_top"] and head == "keep"
        if not keep_head:
            shapes = {n: shape for n, shape in shapes.items() if not _in_head(n)}
        # Any number of positions may be resized, of whatever grid they are.
        num_positions = (*shapes.get(_POSITIONS, ()), None, None)[1]
        tensors = [
            tensor
            for tensor in _tensors(config, self._block_names(), num_positions)
            if keep_head or not _in_head(tensor.name)
        ]
        check_tensors(
            self.path,
            {tensor.name: tensor.shape for tensor in tensors},
            shapes,
            "keras_vit.load_checkpoint(path) builds the model that fits the file; "
            "head='new' replaces its head, for other classes.",
        )
        grid = None
        if _POSITIONS in shapes:
            grid = self._source_grid(config, source_grid_shape)
        arrays = self._read(shapes)
        parts: dict[str, list] = {}
        for tensor in tensors:
            array = arrays.pop(tensor.name).reshape(tensor.stored_shape)
            parts.setdefault(tensor.path, []).append(array)
        values = {
            path: pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=-1)
            for path, pieces in parts.items()
        }
        if grid and grid != config["grid_shape"]:
            path = "patch_encoder/positions/embedding"
            values[path] = resize_positions(
                values[path], grid, config["grid_shape"], resize or self.resize
            )
        return values

    def _read(self, names):
        arrays = {}
        with self._open() as archive:
            for name in names:
                member = f"{name}.npy"
                if member not in archive.namelist():
                    member = name
                try:
                    with archive.open(member) as file:
                        array = np.lib.format.read_array(file, allow_pickle=False)
                except Exception as error:
                    raise self._unreadable(f"{name}: {error}") from None
                arrays[name] = array.astype("float32", copy=False)
        return arrays


def _read_header(file):
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"version {version} of the array format")
    return shape, dtype
