"""Construction of models from checkpoints."""

import os
from typing import Any

import keras

from keras_vit import processes
from keras_vit.choices import check_choice
from keras_vit.kernels.initial_values import checkpoint_follows
from keras_vit.layers.resize import RESIZE_CONVENTIONS
from keras_vit.models.adapt import adapted
from keras_vit.models.bit import BiT
from keras_vit.models.loading import HEADS
from keras_vit.models.restorable_model import RestorableModel
from keras_vit.models.t2t_vit import T2TViT
from keras_vit.models.vit import ViT
from keras_vit.weights.big_transfer import BigTransferSource
from keras_vit.weights.checks import announce_zeros, check_weights
from keras_vit.weights.detect import config_errors, open_checkpoint
from keras_vit.weights.download import fetch_checkpoint
from keras_vit.weights.keras_file import check_keras_file
from keras_vit.weights.t2t import T2TSource
from keras_vit.weights.tensor_file import unreadable

# Arguments that the readers of PyTorch checkpoints need before a model is built.
_OPENING = ("architecture", "state_dict")
# Arguments that control loading and are not part of the model.
_LOADING = ("head", "resize", "source_grid_shape", "check_finite")


class NoHeadError(ValueError):
    """Error for a checkpoint without the classifier that the caller asked for."""


def load_checkpoint(path: str | os.PathLike, **overrides: Any) -> ViT:
    """Build the model that a checkpoint was saved from, and load its weights.

    Every tensor of the file is used and every weight of the model is set; any mismatch
    raises an error that lists the tensors on both sides. By default, the image size of
    the model follows from the position embeddings in the file.

    Args:
        path: one of the following. Names and repositories are downloaded and cached.
            A name that `keras_vit.checkpoints()` lists.
            `hf://organization/name` for a repository on the Hugging Face Hub.
            A `.npz` file from Google (original, AugReg, SAM, hybrids, big_vision, BiT).
            A `.safetensors`, `.pth` or `.bin` file from timm, DeiT or transformers, or
            the directory of a Hugging Face repository with its `config.json`; of
            transformers, those of ViT, DeiT, ViT-MSN, ViT-MAE, I-JEPA, BEiT, DINOv2,
            DINOv3, CLIP, SigLIP, SigLIP 2 and AIMv2.
            A file of open_clip, or a `.pth` file of DINO, DINOv2, DINOv3, MAE or T2T-ViT
            as their authors published it.
            The directory of a KerasHub preset (ViT, DeiT, DINOv2, DINOv3).
            A `keras_vit` model saved as `.keras`, or the directory of a run, whose best
            model is loaded.
        **overrides: arguments of `keras_vit.ViT` (or `T2TViT`) that override what the
            file implies, for example:
            `input_shape`: position embeddings are resized to the new grid by the
            convention of the source, Google's for `.keras`, or by that of `resize`
            (those of T2T-ViT are computed for the new grid).
            `patch_size`: patch kernels are resized by FlexiViT's PI-resize.
            `num_heads`: required if the file does not determine it.
            `classes` with `head="new"`: the whole head is replaced and the tanh layer
            removed, as in the paper for fine-tuning.
            `include_top=False` or `head="drop"`: the head is not loaded.
            `classifier_activation=None`: the model returns logits.
            PyTorch checkpoints have two additional arguments: `architecture`, timm's name
            for the network (see below), and `state_dict`, the part to read if a file has
            several (`"model_ema"`, or the prefix of the network's tensors).

    Returns:
        A `keras_vit.ViT`, its subclass `T2TViT`, or a `BiT`. Its `preprocessor` is that
        of the checkpoint, as far as the files define it.

    The outputs are probabilities, unless the checkpoint states another activation of its
    head (transformers' `problem_type`, KerasHub's `activation`) or has only one class.
    `class_names` are read from transformers' `id2label` and timm's `label_names`.

    Networks that are not known to be plain ViTs are rejected. The tensors of timm's files
    do not always determine the network: rotary position embeddings in addition to learned
    ones, pooling over registers, norms after the branches and the GELU of SigLIP leave no
    trace in them. A file without timm's `config.json` that could be one of these is
    rejected unless the caller passes `architecture`, or the argument that the message
    names: `positions="learned"`, `pooling="map"`, `activation=...`. Files of the common
    networks (AugReg, DeiT, DINO, DINOv2, MAE) need neither.

    If `input_shape` has a single channel, the first kernel is summed over its channels,
    and the preprocessor has the averages of their means and standard deviations. Where
    these are equal, a gray image has the outputs of its RGB version; with those of
    ImageNet, they differ a little. For other numbers of channels, the channels of the
    kernel are repeated in order and scaled by old / new. The ResNets of hybrids and BiT
    standardize the result, and outputs change.

    Raises:
        FileNotFoundError: the file does not exist.
        ImportError: a package that the format needs is not installed (`.pth`: torch).
        ValueError: the file is damaged or of an unknown kind, its tensors differ from
            those of the model or are not all finite, or the image size cannot be
            determined.

    Example:

    >>> import keras_vit
    >>> model = keras_vit.load_checkpoint("ViT-B_16.npz")  # doctest: +SKIP
    >>> larger = keras_vit.load_checkpoint(
    ...     "ViT-B_16.npz", input_shape=(384, 384, 3), classes=10, head="new"
    ... )  # doctest: +SKIP
    """
    if os.path.isfile(best := os.path.join(path, "best.keras")):
        path = best
    if os.fspath(path).endswith(".keras"):
        return _load_keras(path, overrides)
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
        for argument in ("include_top", "classifier_activation"):
            config.pop(argument, None)  # Those of the old head.
    if overrides.get("head") == "new" or without_head:
        config.pop("representation_size", None)
    if not without_head and overrides.get("head", "keep") == "keep":
        _describe_head(source, config, overrides)
    merged = {**config, **overrides}
    if merged.get("include_top", True) and "classes" not in merged:
        raise _no_head(path)
    if "input_shape" not in merged:
        raise ValueError(
            f"{path} does not determine the size of its images (its positions do not "
            "form a square grid, or it has none): pass "
            "input_shape=(height, width, channels)."
        )
    return _model_class(source)(weights=source, **merged)


def _model_class(source):
    if isinstance(source, BigTransferSource):
        return BiT
    return T2TViT if isinstance(source, T2TSource) else ViT


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
    for argument in set(_OPENING) & set(overrides):
        raise ValueError(
            f"{argument}={overrides[argument]!r} is for checkpoints of PyTorch; "
            f"{os.fspath(path)} contains its model: leave it out."
        )
    path = fetch_checkpoint(path)
    budget = check_keras_file(path, RestorableModel)
    try:
        with checkpoint_follows(budget=budget):
            # Do not compile: the classes of its optimizer and loss may be unknown.
            saved = keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as e:
        # Keras does not convert the errors that an invalid config causes.
        raise unreadable(
            path, ".keras file", f"no model can be built from it: {e}"
        ) from e
    loading = {name: overrides.pop(name) for name in _LOADING if name in overrides}
    head, resize = loading.get("head", "keep"), loading.get("resize") or "google"
    check_choice("head", head, HEADS)
    check_choice("resize", resize, RESIZE_CONVENTIONS)
    if loading.get("source_grid_shape") is not None:
        raise ValueError(f"{path} defines its grid: leave source_grid_shape out.")
    weights = saved.weights_by_path()
    if loading.get("check_finite", True):
        check_weights(path, weights)
    if head == "keep" and "classifier/kernel" in weights:
        announce_zeros(path, processes.whole(weights["classifier/kernel"]))
    if not overrides and head == "keep":
        return saved
    if head == "new":
        overrides = {**_new_head(saved.get_config(), overrides), **overrides}
    if not saved.get_config().get("include_top", True):
        asked = overrides.get("include_top", head == "new")
        if asked and (head != "new" or "classes" not in overrides):
            raise _no_head(path)
        if head == "new":
            overrides = {"include_top": True, **overrides}
    return adapted(saved, overrides, head=head, resize=resize, origin=path)


def _new_head(config, overrides):
    """Return the activation and the bias of a new head, which are not the old head's."""
    # A softmax over one class is always 1.
    one = overrides.get("classes", config.get("classes")) == 1
    values = {
        "classifier_activation": None if one else "softmax",
        "classifier_bias": 0.0,
    }
    return {name: value for name, value in values.items() if name in config}


def _no_head(path):
    return NoHeadError(
        f"{path} has no head: pass classes=... with head='new', or include_top=False."
    )
