"""Checks of the arguments of models: ranges, choices, and rules between arguments."""

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras

from keras_vit.choices import check_choice
from keras_vit.layers.attention import SelfAttention, head_dim
from keras_vit.layers.base import copy_of, restored
from keras_vit.layers.block import BLOCK_ORDERS, REMAT
from keras_vit.layers.compact import SequencePooling
from keras_vit.layers.heads import (
    AttentionPooling,
    GlobalAveragePooling,
    SimilarityClassifier,
    TokenAndAveragePooling,
    TokenPooling,
)
from keras_vit.layers.mlp import get_activation, make_mlp
from keras_vit.layers.norms import make_norm
from keras_vit.layers.patch_encoder import EMBEDDING_NORMS
from keras_vit.layers.patches import grid_shape
from keras_vit.layers.position_kinds import check_positions, split_positions
from keras_vit.layers.preprocessor import Preprocessor
from keras_vit.models.token_reduction import check_reduction


def _is_int(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value):
    """Return True for a finite int or float that fits into a float32."""
    number = _is_int(value) or isinstance(value, float)
    return number and abs(value) < 1e38


def _integer(largest, smallest=1):
    kind = "a positive int" if smallest else "an int, 0 or more"
    return (
        f"{kind}, at most {largest} (int(...) makes an int of a NumPy number)",
        lambda value: _is_int(value) and smallest <= value <= largest,
    )


def _or_none(allowed, accepts):
    return f"None or {allowed}", lambda value: value is None or accepts(value)


_BOOL = "a bool", lambda value: value in (True, False, None)
_RATE = (
    "a number, at least 0 and below 1",
    lambda value: _is_number(value) and 0 <= value < 1,
)
_SCALE = (
    "a positive number, the initial scale",
    lambda value: _is_number(value) and value > 0,
)
_FRACTION = (
    "a float between 0 and 1",
    lambda value: isinstance(value, float) and 0 < value < 1,
)
# For each argument, a description of its valid values for error messages, and a test. The
# limits exceed those of every published model (ViT-22B: 48 blocks, hidden_dim=6144).
_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "hidden_dim": _integer(2**17),
    "num_layers": _integer(10_000),
    "num_heads": _integer(2**17),
    "mlp_dim": _integer(2**20),
    "classes": _integer(10**8),
    "representation_size": _or_none(*_integer(2**20)),
    "registers": _integer(10**6, smallest=0),
    "layer_norm_epsilon": _FRACTION,
    "layer_scale": _or_none(*_SCALE),
    "classifier_bias": ("a finite number", _is_number),
    "include_top": _BOOL,
    "qkv_bias": ("a bool or 'qv'", lambda value: value in (True, False, "qv")),
    "class_token": _BOOL,
    "class_token_position": _BOOL,
    "distillation_token": _BOOL,
    "dropout_rate": _RATE,
    "attention_dropout_rate": _RATE,
    "stochastic_depth_rate": _RATE,
}
_CHOICES = {
    "final_norm": ("before_pooling", "after_pooling", None),
    "block": BLOCK_ORDERS,
    "remat": REMAT,
    "embedding_norm": EMBEDDING_NORMS,
}
_POOLINGS = ("token", "gap", "token_gap", "map", "sequence", None)
POOLING_LAYERS = (
    TokenPooling,
    GlobalAveragePooling,
    AttentionPooling,
    SequencePooling,
)
_LARGEST_MODEL = 10**11  # Number of weights: 400 GB in float32.
_LARGEST_IMAGE = 2**28  # Number of values: 1 GB in float32.


def check_arguments(arguments: Mapping[str, Any]) -> tuple[int, int]:
    """Check the arguments that determine the network, before anything is built.

    Args:
        arguments: every argument of `ViT` except the name, the dtype, the preprocessor
            and those that control how `weights` are loaded.

    Returns:
        `(gh, gw)`, the rows and columns of patches in an image.

    Raises:
        ValueError: an argument is out of its range, or two arguments contradict each
            other.
    """
    for name, choices in _CHOICES.items():
        check_choice(name, arguments[name], choices)
    check_ranges(arguments)
    grid = _grid_shape(
        arguments["input_shape"], arguments["patch_size"], arguments["stem"]
    )
    _check_size(arguments, grid)
    width = head_dim(arguments["hidden_dim"], arguments["num_heads"])
    check_positions(arguments["positions"], arguments["hidden_dim"], width)
    get_activation(arguments["activation"])
    _check_parts(arguments)
    _check_head(arguments)
    check_reduction(arguments)
    return grid


def check_ranges(arguments: Mapping[str, Any]) -> None:
    """Check arguments that every kind of model may have.

    Args:
        arguments: dict that has at least those of the classes and the classifier.

    Raises:
        ValueError: a number is out of its range, `class_names` does not have one name
            for each of the `classes`, or the `classifier_activation` is unknown or does
            not go with the number of classes.
    """
    check_numbers(arguments)
    _check_class_names(arguments["class_names"], arguments["classes"])
    _check_classifier_activation(arguments)


def check_numbers(arguments: Mapping[str, Any]) -> None:
    """Check the range of each argument that is a number or a bool.

    Args:
        arguments: dict of arguments, of which those without a rule are left out.

    Raises:
        ValueError: an argument is out of its range.
    """
    for name, (allowed, accepts) in _RULES.items():
        if name in arguments and not accepts(arguments[name]):
            raise ValueError(
                f"{name} must be {allowed}; received {_shorten(arguments[name])}."
            )


def resolve(
    config: Mapping[str, Any],
    grid_shape: tuple[int, int],
    stem: keras.layers.Layer | None,
) -> dict[str, Any]:
    """Return the arguments of a model with their defaults resolved.

    Args:
        config: the constructor's arguments, as the model's config has them.
        grid_shape: `(gh, gw)`, rows and columns of patches.
        stem: the model's stem, or None.

    Returns:
        A new dict, in which `class_token` is a bool and `stem` the layer, with these
        additional entries: `grid_shape`; `num_prefix_tokens`; `added_positions`, the word
        for the positions that are added to the tokens; and `attention_positions`, a layer
        of positions that act inside of the attention, or None.
    """
    resolved = {**config, "grid_shape": grid_shape, "stem": stem}
    if config["class_token"] is None:
        resolved["class_token"] = config["pooling"] in ("token", "token_gap") or (
            isinstance(restored(config["pooling"]), TokenPooling | TokenAndAveragePooling)
        )
    resolved["num_prefix_tokens"] = (
        int(resolved["class_token"])
        + int(config["distillation_token"])
        + config["registers"]
    )
    added, inside = split_positions(config["positions"])
    return {**resolved, "added_positions": added, "attention_positions": inside}


def _check_parts(arguments):
    """Check the arguments that may be layers."""
    norms = {
        "norm": arguments["norm"],
        "layer_norm_epsilon": arguments["layer_norm_epsilon"],
    }
    make_norm(norms["norm"], norms["layer_norm_epsilon"])
    mlp_dim, activation = arguments["mlp_dim"], arguments["activation"]
    make_mlp(arguments["mlp"], activation, hidden_dim=mlp_dim, **norms)
    if arguments["attention"] is not None:
        copy_of(
            "attention",
            arguments["attention"],
            (SelfAttention,),
            num_heads=arguments["num_heads"],
            use_qkv_bias=arguments["qkv_bias"],
            positions=None,
            **norms,
        )
    if arguments["classifier"] is not None:
        copy_of(
            "classifier",
            arguments["classifier"],
            (SimilarityClassifier,),
            units=arguments["classes"],
            activation=arguments["classifier_activation"],
            initial_bias=arguments["classifier_bias"],
        )
    pooling = restored(arguments["pooling"])
    if isinstance(pooling, keras.layers.Layer):
        copy_of("pooling", pooling, POOLING_LAYERS)
    else:
        check_choice("pooling", pooling, _POOLINGS)


def _shorten(value):
    """Return `repr(value)`, which may have thousands of digits, in one line."""
    if _is_int(value) and abs(value) > 10**20:
        return "an int of more than 20 digits"
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def check_image_shape(input_shape: Any) -> None:
    """Raise a `ValueError` unless it is `(height, width, channels)`, positive ints."""
    grid_shape(input_shape, patch_size=1)


def _check_class_names(class_names, classes):
    if class_names is None:
        return
    if (
        isinstance(class_names, str)
        or not isinstance(class_names, Sequence)
        or not all(isinstance(name, str) for name in class_names)
    ):
        raise ValueError(
            "class_names must be None or a sequence of str, one for each class; received "
            f"{class_names!r}."
        )
    if len(class_names) != classes:
        raise ValueError(
            f"class_names must have one name for each of the {classes} classes; received "
            f"{len(class_names)} names: {', '.join(class_names[:3])}, ..."
        )


def _check_size(arguments, grid):
    """Raise if an image has too many pixels or (estimated) the model too many weights."""
    height, width, channels = arguments["input_shape"]
    if height * width * channels > _LARGEST_IMAGE:
        raise ValueError(
            f"input_shape={_shorten(arguments['input_shape'])} has more than "
            f"{_LARGEST_IMAGE} numbers an image: make it smaller."
        )
    d, rows = arguments["hidden_dim"], math.prod(grid) + arguments["registers"]
    if arguments["stem"] is None:
        rows += arguments["patch_size"] ** 2 * channels
    if arguments["include_top"]:
        rows += arguments["classes"]
    rows += arguments["num_layers"] * (4 * d + 2 * arguments["mlp_dim"])
    if d * rows > _LARGEST_MODEL:
        raise ValueError(
            f"The model would have about {d * rows:.1e} weights, more than "
            f"{_LARGEST_MODEL:.0e}: make hidden_dim, num_layers, mlp_dim, classes, "
            "patch_size or input_shape smaller."
        )


def _check_classifier_activation(arguments):
    activation = arguments["classifier_activation"]
    try:
        known = activation is None or (
            isinstance(activation, str) and callable(keras.activations.get(activation))
        )
    except (ValueError, TypeError):
        known = False
    if not known:
        raise ValueError(
            f"Unknown classifier_activation {activation!r}; use None for logits, "
            "'softmax', 'sigmoid' or another name of keras.activations."
        )
    if activation == "softmax" and arguments["classes"] == 1 and arguments["include_top"]:
        raise ValueError(
            "The softmax of one class is 1.0 for every image; received classes=1 and "
            "classifier_activation='softmax'. Use classifier_activation='sigmoid' for a "
            "probability, or None for a plain number, as in a regression."
        )


def _check_head(arguments):
    """Check that the class token, the pooling and the head are compatible."""
    pooling, include_top = arguments["pooling"], arguments["include_top"]
    if isinstance(restored(pooling), TokenAndAveragePooling):
        pooling = "token_gap"
    representation_size = arguments["representation_size"]
    if pooling in ("token", "token_gap") and arguments["class_token"] is False:
        raise ValueError(
            f"pooling={pooling!r} needs the class token; received class_token=False. Use "
            "pooling='gap' or 'map' for a model without one."
        )
    if pooling == "token_gap" and arguments["final_norm"] == "after_pooling":
        raise ValueError(
            "pooling='token_gap' needs final_norm='before_pooling', since the pooled "
            "vector is twice as wide as the norm; received 'after_pooling'."
        )
    if pooling is None and (include_top or arguments["final_norm"] == "after_pooling"):
        raise ValueError(
            "pooling=None gives tokens: it needs include_top=False and "
            f"final_norm='before_pooling'; received include_top={include_top}, "
            f"final_norm={arguments['final_norm']!r}."
        )
    if arguments["distillation_token"] and arguments["final_norm"] == "after_pooling":
        raise ValueError(
            "distillation_token=True needs final_norm='before_pooling', which normalizes "
            "both tokens; received 'after_pooling'."
        )
    if arguments["distillation_token"] and (
        pooling not in ("token", None) or representation_size is not None
    ):
        raise ValueError(
            "distillation_token=True is DeiT's head: it needs pooling='token' and "
            f"representation_size=None; received pooling={pooling!r}, "
            f"representation_size={representation_size!r}."
        )
    if arguments["distillation_token"] and arguments["classifier"] is not None:
        raise ValueError(
            "distillation_token=True has two linear classifiers; received classifier="
            f"{arguments['classifier']!r}. Leave it out."
        )
    if representation_size is not None and not include_top:
        raise ValueError(
            "representation_size is part of the classification head; received "
            f"{representation_size} with include_top=False."
        )


def _grid_shape(input_shape, patch_size, stem):
    """Return the rows and columns of patches in the image, or in the stem's output."""
    if stem is None:
        return grid_shape(input_shape, patch_size)
    if not isinstance(stem, keras.layers.Layer):
        raise ValueError(
            "stem must be None or a Keras layer from images to a map of features, such "
            f"as keras_vit.layers.ResNetStem(); received {stem!r}."
        )
    if stem.weights:
        raise ValueError(
            f"The stem {stem.name!r} has weights already. The model makes its own stem "
            "from the config, as it does when it is saved, so these would be lost: pass "
            "type(stem).from_config(stem.get_config()), and give the weights to "
            "model.get_layer('stem').set_weights(...)."
        )
    check_image_shape(input_shape)
    features = tuple(stem.compute_output_shape((None, *input_shape)))[1:]
    if len(features) != 3 or None in features:
        raise ValueError(
            "stem must give maps of features (batch, height, width, channels) of known "
            f"size; {stem!r} gives {(None, *features)} for images of {input_shape}."
        )
    if math.prod(features) > _LARGEST_IMAGE:
        raise ValueError(
            f"The stem gives maps of {features}, more than {_LARGEST_IMAGE} numbers an "
            "image: make it smaller."
        )
    sides = features[:2]
    if isinstance(patch_size, int) and any(side % max(patch_size, 1) for side in sides):
        nearest = [_nearest_side(axis, input_shape, patch_size, stem) for axis in (0, 1)]
        remedy = "Change patch_size: the stem makes no map of such a size."
        if None not in nearest:
            remedy = (
                f"Resize to {nearest[0]}x{nearest[1]}, "
                f"input_shape={(*nearest, input_shape[2])}, or change patch_size."
            )
        raise ValueError(
            f"An image of {input_shape[0]}x{input_shape[1]} pixels leaves the stem as a "
            f"map of {sides[0]}x{sides[1]} positions, which cannot be cut into patches "
            f"of {patch_size}x{patch_size}: both sides must be multiples of "
            f"{patch_size}. {remedy}"
        )
    return grid_shape(features, patch_size)


def _nearest_side(axis, input_shape, patch_size, stem):
    """Return the nearest height (axis 0) or width that fits the patches, or None."""

    def fits(size):
        shape = [None, *input_shape]
        shape[1 + axis] = size
        try:
            side = stem.compute_output_shape(tuple(shape))[1 + axis]
        except ValueError:  # The image is too small for the stem.
            return False
        return side > 0 and side % patch_size == 0

    size = input_shape[axis]
    candidates = filter(fits, range(1, size * (patch_size + 1)))
    return min(candidates, key=lambda candidate: abs(candidate - size), default=None)


def check_preprocessor(preprocessor: Any, input_shape: tuple[int, int, int]) -> None:
    """Raise a `ValueError` unless it is a `Preprocessor` for images of this size."""
    if not isinstance(preprocessor, Preprocessor):
        raise ValueError(
            "preprocessor must be a keras_vit.layers.Preprocessor; received "
            f"{preprocessor!r}."
        )
    if preprocessor.image_size not in (None, input_shape[:2]):
        raise ValueError(
            f"The preprocessor has image_size={preprocessor.image_size}, the model "
            f"input_shape={input_shape}; make them equal, for example with "
            f"preprocessor.with_image_size({input_shape[:2]})."
        )


# Names that timm, transformers and keras.applications use for arguments of `ViT`.
_ELSEWHERE = {
    "num_classes": "classes",
    "num_labels": "classes",
    "depth": "num_layers",
    "num_hidden_layers": "num_layers",
    "embed_dim": "hidden_dim",
    "hidden_size": "hidden_dim",
    "intermediate_size": "mlp_dim",
    "num_attention_heads": "num_heads",
    "img_size": "input_shape",
    "image_size": "input_shape",
    "image_shape": "input_shape",
    "global_pool": "pooling",
    "drop_rate": "dropout_rate",
    "attn_drop_rate": "attention_dropout_rate",
    "drop_path_rate": "stochastic_depth_rate",
    "reg_tokens": "registers",
    "init_values": "layer_scale",
    "act_layer": "activation",
    "hidden_act": "activation",
    "layer_norm_eps": "layer_norm_epsilon",
}


class UnknownArgumentError(TypeError, ValueError):
    """Error for a keyword argument that the constructor of a model does not have.

    It is both a `TypeError`, like the error that Python raises, and a `ValueError`, which
    the commands report in one line.
    """


def check_argument_names(model_class: type, names: Iterable[str]) -> None:
    """Check that a model class has some keyword arguments, and suggest similar names.

    Args:
        model_class: the class of the model.
        names: names of the keyword arguments.

    Raises:
        UnknownArgumentError: the constructor does not have one of the arguments.
    """
    known: list[str] = []
    for kind in model_class.__mro__:
        if not kind.__module__.startswith("keras_vit."):
            return  # A user's subclass may have additional keywords.
        if "__init__" not in vars(kind):
            continue
        parameters = inspect.signature(vars(kind)["__init__"]).parameters
        known += parameters
        if all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
            break
    for name in names:
        if name in known:
            continue
        near = difflib.get_close_matches(name, known, n=2)
        meant = [_ELSEWHERE[name]] if name in _ELSEWHERE else near
        hint = f": did you mean {' or '.join(meant)}?" if meant else ""
        if name == "classes":
            hint = (
                ": its outputs are not those of a classifier. Fit one to its features "
                "(keras-vit probe), or compare them (keras-vit knn)."
            )
        raise UnknownArgumentError(
            f"{model_class.__name__} has no argument {name!r}{hint or '.'}"
        )
