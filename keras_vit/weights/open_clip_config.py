"""open_clip's `open_clip_config.json`, and the networks of timm that it names."""

from typing import Any

from keras_vit.weights.tensor_file import read_json

CONFIG = "open_clip_config.json"
# open_clip's defaults for preprocessing.
PREPROCESSING = {
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "mode": "RGB",
    "fill_color": 0,
    "size": None,
}
# Settings of towers that timm builds which do not change the outputs. The tensors show
# whether a projection follows the network.
_SHOWN = {
    *("timm_model_name", "timm_model_pretrained", "timm_pool", "timm_proj"),
    *("timm_proj_bias", "timm_drop", "timm_drop_path", "patch_dropout", "image_size"),
}
_CROP_MODES = {"shortest": "center", "squash": "squash"}


def read_trunk_config(directory: str) -> dict[str, Any]:
    """Return the configuration of a tower that timm built, in timm's terms.

    Args:
        directory: str, directory of the checkpoint.

    Returns:
        Dict as `keras_vit.weights.timm_config.read_config` returns it, with an entry
        `"is_projection"`: the network's classifier computes an embedding. Empty if
        there is no `open_clip_config.json`, or if it does not name a network of timm.
    """
    config = read_json(directory, CONFIG)
    vision = (config.get("model_cfg") or {}).get("vision_cfg") or {}
    if not vision.get("timm_model_name"):
        return {}
    other = {n: x for n, x in vision.items() if n not in _SHOWN and x is not None}
    preprocessing = {**PREPROCESSING, **(config.get("preprocess_cfg") or {})}
    del preprocessing["size"]
    kept = {k: x for k, x in preprocessing.items() if x != PREPROCESSING.get(k)}
    for name in ("mean", "std", "interpolation"):
        kept[name] = preprocessing[name]
    if preprocessing["resize_mode"] in _CROP_MODES:
        kept.pop("resize_mode", None)
        kept |= {"crop_mode": _CROP_MODES[preprocessing["resize_mode"]], "crop_pct": 1.0}
    return {
        "architecture": vision["timm_model_name"],
        "global_pool": vision.get("timm_pool", "avg") or "",
        "model_args": {"img_size": vision.get("image_size"), **other},
        "pretrained_cfg": kept,
        "is_projection": True,
        "config_name": CONFIG,
    }
