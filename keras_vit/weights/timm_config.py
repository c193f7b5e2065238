"""timm's config.json: the file beside a checkpoint, and the preprocessing in it."""

import os
from typing import Any

import numpy as np

from keras_vit.layers.preprocessor import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    RESIZES,
    Preprocessor,
)
from keras_vit.layers.unstated_preprocessor import UnstatedPreprocessor
from keras_vit.weights.open_clip_config import read_trunk_config
from keras_vit.weights.tensor_file import read_json

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


def read_config(path):
    """Read timm's config.json in the directory of `path`.

    Args:
        path: path of the checkpoint.

    Returns:
        dict in timm's current format, also for older files and for the towers of
        open_clip; empty if there is no config.json of timm.
    """
    directory = os.path.dirname(path)
    config = read_json(directory, "config.json")
    if "architecture" not in config:
        config = read_trunk_config(directory)
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


def labels(config: dict[str, Any]) -> Any:
    """Return the names of the classes, or None.

    Args:
        config: what `read_config` returned.
    """
    published = config.get("pretrained_cfg") or {}
    names = config.get("label_names") or published.get("label_names")
    return names or published.get("labels")


def preprocessing(pretrained_cfg: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the preprocessing of timm's evaluation.

    Args:
        pretrained_cfg: dict of that name in timm's config.json.

    Returns:
        Dict of arguments of `Preprocessor`, and the list of the entries that it does not
        support.
    """
    published = {k: v for k, v in pretrained_cfg.items() if v is not None}
    if not published:
        return {}, []
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
    mean = published.get("mean") or [x / 255 for x in IMAGENET_MEAN]
    std = published.get("std") or [x / 255 for x in IMAGENET_STD]
    settings = {
        "mean": [255 * x for x in mean],
        "std": [255 * x for x in std],
        "crop_fraction": crop,
        "resize": resize,
    }
    return settings, other


def pretrained_cfg(preprocessor: Preprocessor, config: dict[str, Any]) -> dict[str, Any]:
    """Return timm's description of the preprocessing, the inverse of `preprocessing`.

    Args:
        preprocessor: the model's.
        config: dict, the model's `resolved_config()`.

    Raises:
        ValueError: if timm does not have this preprocessing.
    """
    height, width, channels = config["input_shape"]
    check_antialias(preprocessor, "timm")
    crop = preprocessor.crop_fraction
    if crop is not None and preprocessor.crop_rounding == "floor":
        raise ValueError(
            "The model's preprocessor has crop_rounding='floor', as transformers; timm's "
            "center crop can be one pixel off. Pass preprocessor=keras_vit.layers."
            "Preprocessor(..., crop_rounding='nearest') to convert. Nothing was written."
        )
    scaled = preprocessor.with_channels(channels)
    mean, std = (
        [x / 255 for x in np.broadcast_to(values, channels).tolist()]
        for values in (scaled.mean, scaled.std)
    )
    interpolation = preprocessor.resize.removesuffix("_antialias")
    return {
        "input_size": [channels, height, width],
        "fixed_input_size": True,
        # A preprocessor that only scales expects images of the right size, which a
        # resize to that size does not change.
        "interpolation": interpolation if preprocessor.image_size else "bicubic",
        "crop_pct": 1.0 if crop is None else crop,
        "crop_mode": "squash" if crop is None else "center",
        "mean": mean,
        "std": std,
        "num_classes": config["classes"] if config["include_top"] else 0,
        "first_conv": "patch_embed.proj",
        "classifier": (["head", "head_dist"] if config["distillation_token"] else "head"),
    }


def check_antialias(preprocessor: Preprocessor, library: str) -> None:
    """Raise a `ValueError` for a resize that timm and transformers do not have.

    Args:
        preprocessor: the model's.
        library: name of the library, for the message.
    """
    if isinstance(preprocessor, UnstatedPreprocessor):
        raise preprocessor.error()
    if preprocessor.image_size is None:
        return
    if preprocessor.crop_to_aspect_ratio or preprocessor.resize == "bilinear":
        setting = (
            "crop_to_aspect_ratio=True"
            if preprocessor.crop_to_aspect_ratio
            else "resize='bilinear' (without antialiasing)"
        )
        raise ValueError(
            f"The model's preprocessor has {setting}, which {library} cannot express. "
            "Pass preprocessor=keras_vit.layers.Preprocessor(..., "
            "resize='bilinear_antialias') to convert; it gives slightly different "
            "pixels. Nothing was written."
        )
