"""Conversion of transformers' preprocessor_config.json to `Preprocessor` arguments."""

import math
import re
from typing import Any

import numpy as np

from keras_vit.layers.preprocessor import Preprocessor
from keras_vit.weights.timm_config import check_antialias

# Entries that `Preprocessor` honors, and entries that do not change pixels.
_HONORED = {
    *("do_resize", "size", "resample", "do_center_crop", "crop_size", "do_rescale"),
    *("rescale_factor", "do_normalize", "image_mean", "image_std"),
}
_DESCRIPTIVE = {
    *("image_processor_type", "feature_extractor_type", "processor_class"),
    *("do_convert_rgb", "data_format", "input_data_format", "return_tensors", "device"),
    *("disable_grouping", "_valid_processor_keys", "default_to_square", "_name_or_path"),
}
_PROCESSORS = re.compile(
    r"(ViT|DeiT|CLIP|Bit|Siglip|Beit|DINOv3ViT)"
    r"(ImageProcessor(Fast|Pil)?|FeatureExtractor)"
)
# Pillow's codes of interpolation methods.
_RESAMPLE = {2: "bilinear_antialias", 3: "bicubic_antialias"}
# Each processor's defaults for missing entries, as of transformers 5.24.
_HALF = [0.5, 0.5, 0.5]
_ALL = {
    "do_resize": True,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": _HALF,
    "image_std": _HALF,
}
_CLIP = {
    **_ALL,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": 224,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ViT": {**_ALL, "size": 224, "resample": 2},
    "Siglip": {**_ALL, "size": {"height": 224, "width": 224}, "resample": 3},
    "Beit": {**_ALL, "size": 224, "resample": 3, "crop_size": 224},
    "DINOv3ViT": {**_ALL, **_IMAGENET, "size": 224, "resample": 2},
    "DeiT": {
        **_ALL,
        "size": 256,
        "resample": 3,
        "do_center_crop": True,
        "crop_size": 224,
    },
    "CLIP": _CLIP,
    "Bit": _CLIP,
}
# Processors that read a single number as the length of the shorter side.
_SHORTEST = ("CLIP", "Bit", "Siglip")
# The processor of each model, where it is not that of ViT.
_USUAL = {
    "deit": "DeiT",
    "dinov2": "Bit",
    "dinov2_with_registers": "Bit",
    "siglip": "Siglip",
    "siglip_vision_model": "Siglip",
    "clip": "CLIP",
    "clip_vision_model": "CLIP",
    "aimv2": "CLIP",
    "aimv2_vision_model": "CLIP",
    "beit": "Beit",
    "dinov3_vit": "DINOv3ViT",
}


def read_preprocessor_config(
    config: dict[str, Any], model_type: str | None
) -> tuple[dict[str, Any], list[str], tuple[int, int] | None]:
    """Convert the content of a `preprocessor_config.json`.

    Args:
        config: dict, the content of the file.
        model_type: str, the `model_type` of config.json, or None. It determines the
            processor if `config` does not name one.

    Returns:
        Tuple of three:
        - dict of arguments for `Preprocessor`;
        - list of entries that `Preprocessor` does not support, as text;
        - height and width of the processed images, or None if the images are not resized
          or `config` states no size.

    Raises:
        KeyError, TypeError, ValueError, ArithmeticError: if a value is invalid.
    """
    other = [
        f"{key}={value!r}"
        for key, value in config.items()
        if value and key not in _HONORED | _DESCRIPTIVE
    ]
    kind = config.get("image_processor_type") or config.get("feature_extractor_type")
    known = _PROCESSORS.fullmatch(kind) if kind is not None else None
    if kind is not None and known is None:
        other.append(kind)
    family = known[1] if known else _USUAL.get(model_type or "", "ViT")
    # A switch that is null counts as missing; any other entry that is null is an error.
    given = {
        key: value
        for key, value in config.items()
        if value is not None or not key.startswith("do_")
    }
    values = {**_DEFAULTS[family], **given}
    arguments = _scaling(values)
    if not values["do_resize"]:
        if values["do_center_crop"]:
            other.append("a center crop without a resize")
        return {**arguments, "image_size": None}, other, None
    resample = values["resample"]
    if resample not in _RESAMPLE:
        other.append(f"resample={resample!r}")
    arguments["resize"] = _RESAMPLE.get(resample)
    shortest = _is_shortest_edge(values["size"], family)
    square = family not in _SHORTEST
    if values.get("default_to_square", square) != square and _is_int(values["size"]):
        other.append(f"default_to_square={values['default_to_square']!r}")
    output = resized = read_size(values["size"])
    if values["do_center_crop"]:
        output = read_size(values["crop_size"])
    if shortest and output[0] == output[1] <= resized[0]:
        fraction = output[0] / resized[0]
        if math.floor(output[0] / fraction) != resized[0]:
            # `Preprocessor` rounds `output / fraction` down. Half a pixel more keeps the
            # quotient from falling just below the integer.
            fraction = output[0] / (resized[0] + 0.5)
        arguments |= {"crop_fraction": fraction, "crop_rounding": "floor"}
    if shortest and not values["do_center_crop"]:
        other.append(f"size={values['size']!r} without a crop")
    elif shortest and "crop_fraction" not in arguments:
        other.append(f"size={values['size']!r} with crop_size={values['crop_size']!r}")
    elif not shortest and output != resized:
        # The processor of DeiT makes images square before it crops them, which
        # `Preprocessor` cannot do.
        other.append(f"size={values['size']!r}, not shortest_edge, with a center crop")
    return arguments, other, output if config.keys() & {"size", "crop_size"} else None


def _scaling(values):
    """Return the `mean` and `std` arguments of `Preprocessor`, for pixels 0 to 255."""
    scale = float(values["rescale_factor"]) if values["do_rescale"] else 1.0
    mean, std = values["image_mean"], values["image_std"]
    if not values["do_normalize"]:
        mean, std = [0.0] * len(mean), [1.0] * len(std)
    return {"mean": [x / scale for x in mean], "std": [x / scale for x in std]}


def _is_int(size):
    return isinstance(size, int) and not isinstance(size, bool)


def _is_shortest_edge(size, family):
    """Return True if `size` is the length of an image's shorter side."""
    if isinstance(size, dict):
        return set(size) == {"shortest_edge"}
    return _is_int(size) and family in _SHORTEST


def read_size(size: Any) -> tuple[int, int]:
    """Return the height and width in a configuration of transformers.

    Args:
        size: a positive int for a square, a list of two, or a dict with the keys
            `"height"` and `"width"` or the key `"shortest_edge"`.

    Raises:
        ValueError: if `size` is anything else.
    """
    sides: tuple[Any, ...] = (size, size)
    if isinstance(size, dict):
        if set(size) not in ({"height", "width"}, {"shortest_edge"}):
            raise ValueError(f"a size of {size!r}")
        sides = (
            size.get("height", size.get("shortest_edge")),
            size.get("width", size.get("shortest_edge")),
        )
    elif isinstance(size, list) and len(size) == 2:
        sides = tuple(size)
    if not all(_is_int(side) and side > 0 for side in sides):
        raise ValueError(f"a size of {size!r}")
    height, width = sides
    return height, width


def preprocessor_config(
    preprocessor: Preprocessor, input_shape: tuple[int, int, int]
) -> dict[str, Any]:
    """Return the content of a `preprocessor_config.json`.

    This is the inverse of `read_preprocessor_config`.

    Args:
        preprocessor: the model's.
        input_shape: `(height, width, channels)` of the model's images.

    Raises:
        ValueError: if the processors of transformers do not have this preprocessing.
    """
    check_antialias(preprocessor, "transformers")
    height, width, channels = input_shape
    scaled = preprocessor.with_channels(channels)
    mean, std = (
        [x / 255 for x in np.broadcast_to(values, channels).tolist()]
        for values in (scaled.mean, scaled.std)
    )
    config = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": preprocessor.image_size is not None,
        "size": {"height": height, "width": width},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": mean,
        "image_std": std,
    }
    if preprocessor.image_size is None:
        return config
    resizes = {resize: code for code, resize in _RESAMPLE.items()}
    config["resample"] = resizes[preprocessor.resize]
    if preprocessor.crop_fraction is None:
        return config
    if height != width:
        raise ValueError(
            "The model's preprocessor crops images to "
            f"{height}x{width} pixels with crop_fraction={preprocessor.crop_fraction}, "
            "which transformers cannot express: it crops after a resize to a square. "
            "Pass preprocessor=keras_vit.layers.Preprocessor(..., crop_fraction=None) to "
            "convert. Nothing was written."
        )
    if preprocessor.crop_rounding != "floor":
        raise ValueError(
            "The model's preprocessor has crop_rounding='nearest'; the center crop of "
            "transformers can be one pixel off. Pass preprocessor=keras_vit.layers."
            "Preprocessor(..., crop_rounding='floor') to convert. Nothing was written."
        )
    return {
        **config,
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": math.floor(height / preprocessor.crop_fraction)},
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
    }


def naflex_config(
    config: dict[str, Any], patch_size: int, grid_shape: tuple[int, int]
) -> dict[str, Any]:
    """Return the `preprocessor_config.json` of SigLIP 2 NaFlex with the same pixels.

    Its processor keeps the aspect ratio of an image and makes as many patches as allowed.
    An image with the aspect ratio of the model gets the size of the model.

    Args:
        config: dict, as `preprocessor_config` returns it.
        patch_size: int, side of a patch in pixels.
        grid_shape: `(gh, gw)` of the model.

    Raises:
        ValueError: if the preprocessor crops images.
    """
    if config.get("do_center_crop"):
        raise ValueError(
            "The model's preprocessor crops images, which the processor of SigLIP 2 "
            "NaFlex in transformers cannot express. Pass preprocessor=keras_vit.layers."
            "Preprocessor(..., crop_fraction=None) to convert. Nothing was written."
        )
    config = {name: value for name, value in config.items() if name != "size"}
    rows, columns = grid_shape
    return {
        **config,
        "image_processor_type": "Siglip2ImageProcessor",
        "patch_size": patch_size,
        "max_num_patches": rows * columns,
    }
