"""Adaptation of models to another image size, patch size, channels, classes or head."""

import os
from collections.abc import Mapping
from typing import Any

from keras_vit.kernels.initial_values import checkpoint_follows
from keras_vit.layers import TokensToToken, TransformerBlock
from keras_vit.models.arguments import check_image_shape
from keras_vit.processes import whole
from keras_vit.weights.checks import assign, check_tensors
from keras_vit.weights.patch_kernels import adapt_channels, adapt_projection
from keras_vit.weights.pieces import HEAD_PATHS, PROJECTION, STEM_ROOT
from keras_vit.weights.t2t import adapt_t2t_channels


def adapted(
    model: Any,
    overrides: Mapping[str, Any],
    head: str = "keep",
    resize: str = "google",
    origin: str | os.PathLike = "The model",
) -> Any:
    """Return the same network with other arguments, and with its weights adapted to them.

    Position embeddings are resized to the new grid, and patch kernels to the new patch
    size (as in FlexiViT) and number of channels. The preprocessor is adapted to the image
    size and the channels.

    Args:
        model: a `ViT`; it is not changed.
        overrides: dict of constructor arguments that override the model's.
        head: `"keep"`, `"new"` for a fresh, trainable head, or `"drop"`.
        resize: convention for resizing position embeddings; see
            `keras_vit.layers.resize_grid`.
        origin: path of the model, used in error messages.

    Returns:
        A new, uncompiled model of the same class.

    Raises:
        ValueError: an argument is out of its range, or changes the shape of a weight
            that cannot be adapted.
    """
    if head == "drop":
        overrides = {**overrides, "include_top": False}
    config = _adapted_config(model, overrides, head)
    with checkpoint_follows():
        new = type(model).from_config(config)
    values = model._values_for(new, resize)
    own = new.weights_by_path()
    if head == "new" or not config["include_top"]:
        values = {path: value for path, value in values.items() if not _is_head(path)}
    if head == "new":
        own = {path: weight for path, weight in own.items() if not _is_head(path)}
    check_tensors(
        os.fspath(origin),
        {path: tuple(weight.shape) for path, weight in own.items()},
        {path: value.shape for path, value in values.items()},
        "Arguments may change the input_shape, the patch_size, the classes (with "
        "head='new'), and what has no weights.",
    )
    assign(own, values.items())
    return new


def resized(model: Any, input_shape: Any, resize: str = "google") -> Any:
    """Return the same network, with its weights, for images of another size.

    Args:
        model: a `ViT` or `BiT`; it is not changed.
        input_shape: `(height, width, channels)` of the new images.
        resize: as for `adapted`.

    Raises:
        ValueError: the channels differ, or the network cannot have this size.
    """
    check_image_shape(input_shape)
    channels = model.input_shape[-1]
    if input_shape[-1] != channels:
        raise ValueError(
            f"resized() changes height and width only; received {input_shape} for a "
            f"model with {channels} channels."
        )
    return adapted(model, {"input_shape": tuple(input_shape)}, resize=resize)


def copied(model: Any, config: Mapping[str, Any], values: Any = None) -> Any:
    """Return a new, uncompiled model with weights of the same paths and shapes.

    Args:
        model: a `ViT`; it is not changed.
        config: the model's config, with changes that do not affect the weights.
        values: dict from path to array; None for the model's own weights.
    """
    with checkpoint_follows():
        copy = type(model).from_config(config)
    # One array at a time, so that a large model is not in memory a third time.
    own = ((path, whole(weight)) for path, weight in model.weights_by_path().items())
    assign(copy.weights_by_path(), own if values is None else values.items())
    return copy


def resized_positions(values, grid_shape, model, resize):
    """Resize the position embeddings among some values to the grid of a model.

    See `ViT.resized_values`.
    """
    layers = {"patch_encoder/positions": model.get_layer("patch_encoder").positions}
    for block in model.layers:
        if isinstance(block, TransformerBlock):
            positions = block.attention.attention_positions()
            if positions is not None:
                layers[f"{block.name}/attention/{positions.name}"] = positions
    values = dict(values)
    for layer_path, layer in layers.items():
        if layer is not None:
            prefix = f"{layer_path}/"
            own = [path for path in model.weights_by_path() if path.startswith(prefix)]
            paths = {path.removeprefix(prefix): path for path in own}
            tables = {name: values[path] for name, path in paths.items()}
            tables = layer.resized_tables(tables, grid_shape, resize)
            values.update({paths[name]: table for name, table in tables.items()})
    return values


def _is_head(path):
    return path.startswith(HEAD_PATHS)


def _adapted_config(model, overrides, head):
    config, preprocessor = model.get_config(), model.preprocessor
    input_shape = overrides.get("input_shape", config["input_shape"])
    check_image_shape(input_shape)
    height, width, channels = input_shape
    if preprocessor.image_size is not None:
        preprocessor = preprocessor.with_image_size((height, width))
    if channels != config["input_shape"][-1]:
        preprocessor = preprocessor.with_channels(channels)
    if head == "new" or not overrides.get("include_top", True):
        no_head = {"representation_size": None, "class_names": None, "classifier": None}
        config |= {name: none for name, none in no_head.items() if name in config}
        for name in ("lora", "quantized"):  # Omit the entries of the old head.
            entries = config.get(name, {}).items()
            config[name] = {p: e for p, e in entries if not _is_head(f"{p}/")}
    if head == "new":  # A new head is trainable, even if the old one was frozen.
        config["frozen"] = [p for p in config.get("frozen", ()) if not _is_head(p)]
    return {**config, "preprocessor": preprocessor, **overrides}


def _refuse_quantized(values):
    """Raise a `ValueError` if the kernel of the patches holds integers."""
    if PROJECTION in values and values[PROJECTION].dtype.kind == "i":
        raise ValueError(
            f"The kernel of the patches is quantized ({values[PROJECTION].dtype}), and "
            "can be adapted to another patch_size or number of channels only as floats: "
            "adapt the model as it was before quantize(), and quantize the result."
        )


def adapted_values(model: Any, new: Any, resize: str) -> dict[str, Any]:
    """Return the weights of a `ViT`, adapted to the sizes of a new one.

    Args:
        model: the `ViT` that has the weights.
        new: the same network with another image size, patch size or channels.
        resize: convention for resizing position embeddings.

    Returns:
        Dict from path to array.
    """
    values = resized_positions(model._values(), model.grid_shape, new, resize)
    before, after = model.resolved_config(), new.resolved_config()
    old, channels = (config["input_shape"][-1] for config in (before, after))
    old_patch, patch = (config["patch_size"] for config in (before, after))
    if (old, old_patch) != (channels, patch):
        _refuse_quantized(values)
    if before["stem"] is None and (old, old_patch) != (channels, patch):
        kernel = values[PROJECTION]
        values[PROJECTION] = adapt_projection(kernel, old_patch, patch, channels)
    elif old != channels and STEM_ROOT in values:
        values[STEM_ROOT] = adapt_channels(values[STEM_ROOT], channels)
    elif old != channels and isinstance(before["stem"], TokensToToken):
        for path, value in values.items():
            values[path] = adapt_t2t_channels(path, value, old, channels)
    return values
