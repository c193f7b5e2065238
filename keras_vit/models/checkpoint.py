"""A model from a checkpoint alone."""

import os
from typing import Any

import keras

from keras_vit.kernels.initial_values import checkpoint_follows
from keras_vit.models.t2t_vit import T2TViT
from keras_vit.models.vit import HEADS, ViT, check_choice
from keras_vit.weights.download import fetch_checkpoint
from keras_vit.weights.keras_file import check_keras_file
from keras_vit.weights.opening import config_errors, open_checkpoint
from keras_vit.weights.patch_kernels import adapt_channels, resize_patches
from keras_vit.weights.source import HEAD_PATHS, PROJECTION, STEM_ROOT
from keras_vit.weights.strict import (
    announce_zeros,
    assign,
    check_tensors,
    check_weights,
)
from keras_vit.weights.t2t import T2TSource, adapt_t2t_channels
from keras_vit.weights.tensor_file import unreadable

# Arguments about the file, which the readers need before they build a model.
_OPENING = ("architecture", "state_dict")
# What says how to load, and is no part of a model.
_LOADING = ("head", "resize", "source_grid_shape", "check_finite")


def load_checkpoint(path: str | os.PathLike, **overrides: Any) -> ViT:
    """Builds the model that a checkpoint was made from, and loads it.

    Every tensor of the file is used and every weight of the model is set, or it is an
    error that lists both sides. Without `input_shape` the model takes images of the size
    that the file's positions tell.

    Args:
        path: a name that `keras_vit.checkpoints()` lists, or `hf://organisation/name`
            for a repository of the Hugging Face Hub (both are downloaded once); or a
            file or directory:
            Google's `.npz` (original, AugReg, SAM, hybrids, big_vision);
            timm's, DeiT's and transformers' `.safetensors`, `.pth`, `.bin`, alone or in
            the directory of a Hugging Face repository, whose `config.json` is used;
            T2T-ViT's `.pth.tar`;
            a KerasHub preset's directory; a `keras_vit` model saved as `.keras`.
        **overrides: any argument of `keras_vit.ViT` (or `T2TViT`), instead of what the
            file implies:
            `input_shape` (positions are resized to the new grid by the source's own
            convention, Google's for `.keras`, or that of `resize`; other channels: see
            below), `patch_size`
            (FlexiViT's PI-resize), `num_heads` (where nothing tells it), `classes` with
            `head="new"` (the whole head is replaced, the tanh layer left out, as the
            paper does for fine-tuning), `include_top=False` or `head="drop"`,
            `classifier_activation=None`, ... And for checkpoints of PyTorch:
            `architecture`, timm's name for the network (see below), and `state_dict`,
            which part of the file to read where it has several (`"model_ema"`, or the
            prefix of the network's tensors).

    Returns:
        A `keras_vit.ViT`, or a `T2TViT`, which is one; its `preprocessor` is the
        checkpoint's, as far as the files tell.

    The outputs are probabilities, unless the checkpoint states another activation of its
    head (transformers' `problem_type`, KerasHub's `activation`) or has only one class.
    `class_names` come from transformers' `id2label` and timm's `label_names`.

    A network that is not known to be a plain ViT is refused. The tensors of timm's files
    do not always determine the network: rotary positions beside learned ones, pooling
    over registers, norms after the branches and the GELU of SigLIP leave no trace in
    them. A file without timm's `config.json` that could be one of these is refused
    unless the caller passes `architecture`, or the argument that the message names:
    `positions="learned"`, `pooling="map"`, `activation=...`. Files of the ordinary
    networks (AugReg, DeiT, DINO, DINOv2, MAE) need none.

    T2T-ViT's positions are not resized but made anew, whatever `resize` says.

    For one input channel the first kernel is summed over its channels, so that a grey
    image gives what it gave as RGB; for others its channels are repeated in order and
    scaled by old / new.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: a package that the format needs is not installed (`.pth`: torch).
        ValueError: the file is damaged or of no kind that is known; its tensors are not
            exactly those of the model, or not all finite; or the size of its images
            cannot be told.

    Example:

    >>> import keras_vit
    >>> model = keras_vit.load_checkpoint("ViT-B_16.npz")  # doctest: +SKIP
    >>> larger = keras_vit.load_checkpoint(
    ...     "ViT-B_16.npz", input_shape=(384, 384, 3), classes=10, head="new"
    ... )  # doctest: +SKIP
    """
    if os.fspath(path).endswith(".keras"):
        for argument in set(_OPENING) & set(overrides):
            raise ValueError(
                f"{argument}={overrides[argument]!r} is for checkpoints of PyTorch; "
                f"{os.fspath(path)} has its model in it: leave it out."
            )
        return _load_keras(fetch_checkpoint(path), overrides)
    if os.fspath(path).endswith(".weights.h5"):
        raise ValueError(
            f"{os.fspath(path)} holds weights and not the model that has them: build it, "
            "and pass weights=path. A file made by model.save('name.keras') has both."
        )
    with config_errors(path):
        return _load_source(path, overrides)


def _load_source(path, overrides):
    opening = {name: overrides.pop(name, None) for name in _OPENING}
    source = open_checkpoint(path, **opening)
    if overrides.get("head") == "drop":
        overrides = {**overrides, "include_top": False}
    config = source.infer_config(overrides)
    source.may_resize_patches = "patch_size" in overrides
    without_head = not overrides.get("include_top", config.get("include_top", True))
    if overrides.get("head") == "new":
        config.pop("include_top", None)
    if overrides.get("head") == "new" or without_head:
        config.pop("representation_size", None)
    if not without_head and overrides.get("head", "keep") == "keep":
        _describe_head(source, config, overrides)
    merged = {**config, **overrides}
    if merged.get("include_top", True) and "classes" not in merged:
        raise ValueError(
            f"{path} has no head: pass classes=... with head='new', or include_top=False."
        )
    if "input_shape" not in merged:
        raise ValueError(
            f"{path} does not tell the size of its images (its positions do not form a "
            "square grid, or there are none): pass input_shape=(height, width, channels)."
        )
    model = T2TViT if isinstance(source, T2TSource) else ViT
    return model(weights=source, **merged)


def _describe_head(source, config, overrides):
    """Add the names of the classes, and the activation if there is only one class."""
    classes = config.get("classes")
    if classes is None or overrides.get("classes", classes) != classes:
        return
    if "class_names" not in overrides:
        config["class_names"] = source.class_names(classes)
    if classes == 1:  # A softmax over one class is always 1.
        config.setdefault("classifier_activation", None)


def _load_keras(path, overrides):
    budget = check_keras_file(path, ViT)
    try:
        with checkpoint_follows(budget=budget):
            # Its optimizer and loss may be classes that nobody has imported.
            saved = keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as e:
        # Keras passes on whatever an absurd config raises.
        raise unreadable(
            path, ".keras file", f"no model can be built from it: {e}"
        ) from e
    loading = {name: overrides.pop(name) for name in _LOADING if name in overrides}
    head = loading.get("head", "keep")
    check_choice("head", head, HEADS)
    if loading.get("source_grid_shape") is not None:
        raise ValueError(f"{path} tells its grid: leave source_grid_shape out.")
    weights = saved.weights_by_path()
    if loading.get("check_finite", True):
        check_weights(path, weights)
    if head == "keep" and "classifier/kernel" in weights:
        kernel = weights["classifier/kernel"]
        announce_zeros(path, keras.ops.convert_to_numpy(kernel))
    if not overrides and head == "keep":
        return saved
    old = saved.get_config()
    preprocessor = saved.preprocessor
    size = tuple(overrides.get("input_shape", old["input_shape"]))
    image_size = size[:2] if preprocessor.image_size else None
    preprocessor = preprocessor.with_image_size(image_size)
    if size[2] != old["input_shape"][2]:
        preprocessor = preprocessor.with_channels(size[2])
    new_head = head == "new"
    if head == "drop":
        overrides = {**overrides, "include_top": False}
    if new_head or not overrides.get("include_top", True):
        old["representation_size"] = old["class_names"] = None
        for name in ("lora", "quantized"):  # What was added to the old head.
            entry = old.pop(name, {}).items()
            old[name] = {p: v for p, v in entry if not f"{p}/".startswith(HEAD_PATHS)}
    if new_head:  # It trains, even where the old one was frozen.
        frozen = [p for p in old.get("frozen", ()) if not p.startswith(HEAD_PATHS)]
        old["frozen"] = frozen
    with checkpoint_follows():
        config = {**old, "preprocessor": preprocessor, **overrides}
        model = type(saved).from_config(config)
    values = saved.resized_values(
        saved._values(), model, loading.get("resize") or "google"
    )
    channels = old["input_shape"][2]
    if STEM_ROOT in values and size[2] != channels:
        values[STEM_ROOT] = adapt_channels(values[STEM_ROOT], size[2])
    if saved.resolved_config()["stem"] is None and PROJECTION in values:
        patch = old["patch_size"]
        kernel = values[PROJECTION].reshape(patch, patch, channels, -1)
        if size[2] != channels:
            kernel = adapt_channels(kernel, size[2])
        target = model.get_config()["patch_size"]
        if target != patch:
            kernel = resize_patches(kernel, target)
        values[PROJECTION] = kernel.reshape(-1, kernel.shape[-1])
    if size[2] != channels and isinstance(saved, T2TViT):
        for path in values:
            values[path] = adapt_t2t_channels(path, values[path], channels, size[2])
    own = model.weights_by_path()
    if new_head or not model.get_config()["include_top"]:
        values = {p: v for p, v in values.items() if not p.startswith(HEAD_PATHS)}
    if new_head:
        own = {p: w for p, w in own.items() if not p.startswith(HEAD_PATHS)}
    check_tensors(
        path,
        {name: tuple(weight.shape) for name, weight in own.items()},
        {name: value.shape for name, value in values.items()},
        "Arguments may change the input_shape, the patch_size, the classes (with "
        "head='new'), and what has no weights.",
    )
    assign(own, values.items())
    return model
