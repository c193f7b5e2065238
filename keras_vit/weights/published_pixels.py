"""Preprocessing of published checkpoints whose files do not state it."""

import os
import re
from collections.abc import Iterable
from typing import Any

from keras_vit.weights.registry import NORMALIZATIONS, published_checkpoints

# Beginnings of the names of published files, with mean and std, resize and crop of their
# evaluation.
_FILES = {
    r"dino_(deit|vit)|dinov2_vit": ("imagenet", "bicubic_antialias", 0.875),
    r"mae_(pretrain|finetuned|visualize)_vit": ("imagenet", "bicubic_antialias", 0.875),
    r"deit_(tiny|small|base)_": ("imagenet", "bicubic_antialias", 0.875),
    r"deit_3_": ("imagenet", "bicubic_antialias", 1.0),
}
_IN_URL = re.compile(r"https://huggingface\.co/timm/([^/]+)/")
_DINOV3 = {"lvd1689m": "imagenet", "sat493m": "satellite"}
# Width and number of blocks of DINOv3-L and DINOv3-7B, which were trained on photographs
# and on satellite images.
_LARGE, _LARGEST = (1024, 24), (4096, 40)


def pixels(
    normalization: str, resize: str = "bicubic_antialias", **crop: Any
) -> dict[str, Any]:
    """Return arguments of `Preprocessor`.

    Args:
        normalization: str, key of `NORMALIZATIONS`.
        resize: str, as for `Preprocessor`.
        **crop: arguments of `Preprocessor` for the crop.
    """
    return {**NORMALIZATIONS[normalization], "resize": resize, **crop}


def pixels_of_file(path: str) -> dict[str, Any] | None:
    """Return the preprocessing of a file that has the name of a published one.

    Args:
        path: str, path of the file.

    Returns:
        Dict of arguments of `Preprocessor`, or None if the name is another one.
    """
    name = os.path.basename(path)
    found = (settings for start, settings in _FILES.items() if re.match(start, name))
    settings = next(found, None)
    if settings is None:
        return None
    normalization, resize, crop_fraction = settings
    return pixels(normalization, resize, crop_fraction=crop_fraction)


def pixels_of_architecture(name: str) -> dict[str, Any] | None:
    """Return the preprocessing of the published checkpoints of an architecture.

    Args:
        name: str, timm's name for the architecture, with or without a tag.

    Returns:
        Dict of arguments of `Preprocessor`, or None if the checkpoints differ in mean or
        std or if there are none.
    """
    rows = {}
    for row in published_checkpoints().values():
        in_url = _IN_URL.match(row.url)
        if row.normalization is not None and in_url:
            rows[in_url[1]] = row
    base = name.partition(".")[0]
    others = [row for full, row in rows.items() if full.partition(".")[0] == base]
    found = [rows[name]] if name in rows else others
    if len({row.normalization for row in found}) != 1:
        return None
    return found[0].preprocessing


def pixels_of_timm(
    path: str, architecture: str | None, shapes: Iterable[str]
) -> dict[str, Any] | None:
    """Return the preprocessing of a file with timm's names and without a config.json.

    Args:
        path: str, path of the file.
        architecture: str, timm's name for the architecture, or None.
        shapes: names of the tensors.

    Returns:
        Dict of arguments of `Preprocessor`, or None if it is unknown.
    """
    found = pixels_of_architecture(architecture) if architecture else None
    found = found or pixels_of_file(path)
    names = set(shapes)
    is_dinov2 = {"mask_token", "blocks.0.ls1.gamma"} <= names
    # Only DeiT distills, and only the files of MAE have a decoder.
    if found is None and (is_dinov2 or names & {"dist_token", "decoder_embed.weight"}):
        found = pixels("imagenet", crop_fraction=0.875)
    return found


def pixels_of_dinov3(
    path: str, size: tuple[int, int], has_own_norm: bool | None
) -> dict[str, Any] | None:
    """Return the preprocessing of a checkpoint of DINOv3.

    Names of published files and repositories contain the training data. Only the two
    largest networks were trained on satellite images, too. All others, and by default
    those that the code of DINOv3 trains, have the mean and std of ImageNet.

    Args:
        path: str, path of the file, which may be in a directory of the cache of Hugging
            Face.
        size: width and number of blocks.
        has_own_norm: bool, whether the file has another norm for the class tokens of
            small crops; None if files of its format never do. Of the two published
            networks of size L, only the one for satellite images has it.

    Returns:
        Dict of arguments of `Preprocessor`, or None if it is unknown.
    """
    parts = os.path.abspath(path).split(os.sep)[-4:]
    for part in reversed(parts):
        found = [name for data, name in _DINOV3.items() if data in part.lower()]
        if len(found) == 1:
            return pixels(found[0], "bilinear_antialias")
    if size == _LARGEST or (size == _LARGE and has_own_norm is None):
        return None
    is_satellite = size == _LARGE and has_own_norm
    return pixels("satellite" if is_satellite else "imagenet", "bilinear_antialias")
