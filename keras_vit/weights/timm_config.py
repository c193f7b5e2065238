"""timm's config.json: the file beside a checkpoint, and the preprocessing in it."""

import os
from typing import Any

from keras_vit.layers.preprocessor import IMAGENET_MEAN, IMAGENET_STD, RESIZES
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
