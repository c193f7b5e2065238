"""Unknown arguments of a model, with the name that was probably meant."""

import difflib
import inspect
from collections.abc import Iterable

# What timm, transformers and keras.applications call them.
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
    """A keyword that a model's constructor does not have.

    A TypeError, as Python raises, and a ValueError, which commands report in one line.
    """


def check_argument_names(model_class: type, names: Iterable[str]) -> None:
    """Check keywords against a constructor of keras_vit, and suggest similar ones.

    Args:
        model_class: the class.
        names: the keywords.

    Raises:
        UnknownArgumentError: the constructor does not have one of them.
    """
    known: list[str] = []
    for kind in model_class.__mro__:
        if not kind.__module__.startswith("keras_vit."):
            return  # A user's subclass may do what it wants with its keywords.
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
        raise UnknownArgumentError(
            f"{model_class.__name__} has no argument {name!r}{hint or '.'}"
        )
