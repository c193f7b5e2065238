"""Checkpoints of timm's NaFlexViT, under the names of timm's other networks.

NaFlexViT processes images of any aspect ratio. For images of one size it is a plain ViT
whose patch embedding is stored as a matrix, and whose positions are stored as a grid or
as the sum of one table for the rows and one for the columns.
"""

import contextlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_vit.layers.resize import resize_positions
from keras_vit.weights.directory import require
from keras_vit.weights.parts import FlatPatches, flatten_patches
from keras_vit.weights.tensor_file import TensorFile
from keras_vit.weights.timm import TimmSource
from keras_vit.weights.timm_arguments import LIBRARY, TimmModel, timm_model
from keras_vit.weights.timm_config import read_config

_SIGN = "embeds.proj.weight"
_GRID, _ROWS, _COLUMNS = (f"embeds.pos_embed{end}" for end in ("", "_y", "_x"))
_RENAMED = {
    r"^embeds\.(proj|norm)\.": r"patch_embed.\1.",
    r"^embeds\.(cls_token|reg_token)$": r"\1",
}
# Arguments of NaFlexViT that do not change the outputs for images of one size.
_IGNORED = {
    *("pos_embed_grid_size", "pos_embed_use_grid_sample", "embed_proj_type"),
    *("enable_patch_interpolator", "use_key_only_attn_mask", "scale_attn_inner_norm"),
}
_POSITIONS = {"learned": "learn", "factorized": "learn", "none": "none", "": "none"}
# Arguments that determine the positions for images of other sizes.
_RESIZING = {
    "pos_embed_interp_mode": "bicubic",
    "pos_embed_ar_preserving": False,
    "pos_embed_antialias": True,
    "pos_embed_align_corners": False,
}
# Architecture of a plain ViT in timm, and that of NaFlexViT with the same parts.
_PLAIN, _ARCHITECTURE = "vit_base_patch16_224", "naflexvit_base_patch16_siglip"


class NaFlexFile(TensorFile):
    """View of a file of NaFlexViT with the names and shapes of a plain ViT in timm.

    Args:
        file: the opened file.
        channels: int, number of channels of the images.

    Attributes:
        grid_shape: `(gh, gw)` of the position embeddings, or None without them.

    Raises:
        ValueError: if the patches are not squares.
    """

    def __init__(self, file: TensorFile, channels: int):
        super().__init__(file.path)
        file = FlatPatches(file, _SIGN, channels)
        self.format = file.format  # type: ignore[misc]
        self._file = file
        self._stored: dict[str, str] = {}
        for stored, shape in file.shapes.items():
            name = stored
            for pattern, replacement in _RENAMED.items():
                name = re.sub(pattern, replacement, name)
            self._stored[name] = stored
            self.shapes[name] = shape
        self.grid_shape = self._take_grid()

    def _take_grid(self):
        """Replace the tables of positions by one, and return its grid."""
        tables = [self.shapes.get(n, ()) for n in (_GRID, _ROWS, _COLUMNS)]
        match [len(table) for table in tables]:
            case [4, 0, 0]:
                _, rows, columns, width = tables[0]
            case [0, 3, 3]:
                (_, rows, width), (_, columns, _) = tables[1:]
            case _:
                return None
        for name in (_GRID, _ROWS, _COLUMNS):
            self.shapes.pop(name, None)
        self.shapes["pos_embed"] = (1, rows * columns, width)
        return rows, columns

    @contextlib.contextmanager
    def reader(self):
        with self._file.reader() as read:

            def read_plain(name):
                if name == "pos_embed" and _GRID not in self._file.shapes:
                    grid = read(_ROWS)[:, :, None] + read(_COLUMNS)[:, None]
                    return grid.reshape(self.shapes[name])
                array = read(_GRID if name == "pos_embed" else self._stored[name])
                return array.reshape(self.shapes[name])

            yield read_plain


def plain_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of timm's `VisionTransformer` for those of NaFlexViT.

    Arguments that a plain ViT does not have keep their names.

    Args:
        arguments: dict of arguments of NaFlexViT.
    """
    plain = {
        name: value
        for name, value in arguments.items()
        if name not in _IGNORED and not name.startswith("pos_embed_")
    }
    if plain.get("rope_type") in ("", "none"):
        del plain["rope_type"]
    elif "rope_type" in plain:
        plain["rope_type"] = f"NaFlexViT's {plain['rope_type']}"
    if (positions := plain.get("pos_embed")) in _POSITIONS:
        plain["pos_embed"] = _POSITIONS[positions]
    return plain


def resize_convention(arguments: Mapping[str, Any]) -> str | None:
    """Return the convention by which NaFlexViT resizes its position embeddings.

    Args:
        arguments: dict of arguments of NaFlexViT.

    Returns:
        A name for `keras_vit.layers.resize_grid`, or None if there is no such name.
    """
    if arguments.get("pos_embed") == "factorized":
        return "bilinear"
    mode = arguments.get("pos_embed_interp_mode", "bicubic")
    antialias = arguments.get("pos_embed_antialias", True)
    if arguments.get("pos_embed_align_corners", False):
        return "google" if mode == "bilinear" and not antialias else None
    if mode not in ("bilinear", "bicubic"):
        return None
    return f"{mode}_antialias" if antialias else mode


class NaFlexSource(TimmSource):
    """Checkpoint source for files of timm's NaFlexViT, read as ViTs for one image size.

    The model has the image size in timm's config.json, or the one of the grid of
    positions. `input_shape=` gives another one, for which the positions are resized as
    the network itself does it.

    Args:
        file: the opened file.
        architecture: as for `TimmSource`.

    Attributes:
        resizing: dict of the arguments of NaFlexViT that determine the positions for
            images of other sizes.
    """

    kind = "timm NaFlexViT"
    network_kind = "naflex"

    def __init__(self, file, architecture=None):
        config = read_config(file.path)
        stated = (config.get("pretrained_cfg") or {}).get("input_size") or (3,)
        channels = (config.get("model_args") or {}).get("in_chans") or stated[0]
        file = NaFlexFile(file, channels)
        self._grid = file.grid_shape
        self._keeps_aspect_ratio = False
        self.resizing: dict[str, Any] = dict(_RESIZING)
        super().__init__(file, architecture)

    def _plain_arguments(self, arguments):
        resize = resize_convention(arguments)
        if resize is None:
            raise self._other_network(
                [
                    f"{name}={value!r}"
                    for name, value in arguments.items()
                    if name.startswith("pos_embed_")
                ]
            )
        self.resize = resize
        self.resizing |= {n: arguments[n] for n in _RESIZING if n in arguments}
        self._keeps_aspect_ratio = self.resizing["pos_embed_ar_preserving"]
        return plain_arguments(arguments)

    def _check_grid(self, overrides):
        """Positions are resized to any image size, so that no size contradicts them."""

    def position_grid(
        self, target=None, source_grid_shape=None, class_token_position=None
    ):
        return super().position_grid(
            target, source_grid_shape or self._grid, class_token_position
        )

    def infer_config(self, overrides):
        config = super().infer_config(overrides)
        if self.image_size is not None:
            config["input_shape"] = (*self.image_size, self.patches()[1])
        return config

    def resized_positions(self, table, grid, target, resize):
        if not self._keeps_aspect_ratio:
            return super().resized_positions(table, grid, target, resize)
        rows, columns = target
        side = max(target)
        table = resize_positions(table, grid, (side, side), resize)
        table = table.reshape(1, side, side, -1)[:, :rows, :columns]
        return table.reshape(1, rows * columns, -1)


def naflex_model(
    config: dict[str, Any], is_shared: bool, resizing: dict[str, Any]
) -> TimmModel:
    """Return the NaFlexViT that has the outputs of a model, for images of its size.

    Args:
        config: dict, the model's `resolved_config()`.
        is_shared: bool, whether all blocks have the same relative positions.
        resizing: dict, as `NaFlexSource.resizing`.

    Raises:
        ValueError: if there is no such NaFlexViT.
    """
    has_rows = config["class_token"] and config["added_positions"] == "learned"
    prefix_rows = {"class_token_position": config["class_token_position"] and has_rows}
    require(prefix_rows, LIBRARY, {"class_token_position": (False,)})
    plain = timm_model(config, is_shared)
    if plain.architecture != _PLAIN:
        raise ValueError(
            f"timm has no NaFlexViT with the parts of {plain.architecture}, which the "
            "model has. Save it as .keras, and convert that file to get a network for "
            f"images of {config['input_shape'][:2]} pixels. Nothing was written."
        )
    rows, columns = config["grid_shape"]
    arguments = dict(plain.arguments)
    for name in ("img_size", "no_embed_class"):
        del arguments[name]
    arguments["scale_attn_inner_norm"] = arguments.pop("scale_attn_norm")
    if arguments["pos_embed"] == "learn":
        arguments["pos_embed"] = "learned"
    arguments["pos_embed_grid_size"] = [rows, columns]
    arguments |= resizing
    # The grid of a network that keeps the aspect ratio is cut out of a square one.
    arguments["pos_embed_ar_preserving"] &= rows == columns
    return TimmModel("naflex", _ARCHITECTURE, arguments)


def naflex_tensors(
    tensors: dict[str, np.ndarray], grid_shape: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Return the tensors of a plain ViT in timm as those of NaFlexViT.

    This is the inverse of `NaFlexFile`.

    Args:
        tensors: dict from name to array.
        grid_shape: `(gh, gw)` of the position embeddings.
    """
    renamed = {}
    for name, tensor in tensors.items():
        if name == "patch_embed.proj.weight":
            tensor = flatten_patches(tensor)
        elif name == "pos_embed":
            tensor = tensor.reshape(1, *grid_shape, -1)
        if name in ("pos_embed", "cls_token", "reg_token"):
            name = f"embeds.{name}"
        renamed[re.sub(r"^patch_embed\.", "embeds.", name)] = tensor
    return renamed
