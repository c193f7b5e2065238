"""Distillation tokens that start from the class token."""

import numpy as np

from keras_vit.models.adapt import copied
from keras_vit.models.t2t_vit import T2TViT
from keras_vit.models.vit import ViT

_POSITIONS = "patch_encoder/positions/embedding"


def with_distillation_token(model: ViT) -> ViT:
    """Return a copy of a ViT with a distillation token that starts as its class token.

    The token, its position embedding and its head are copies of those of the class token.
    Attention sees one more token than before, so the outputs change slightly.

    Args:
        model: a `ViT` with `pooling="token"` and without a distillation token. It is not
            changed.

    Returns:
        A new, uncompiled `ViT` with `distillation_token=True`.

    Raises:
        ValueError: the model has no class token that is pooled, or has a distillation
            token already.

    Example:

    >>> import keras_vit
    >>> model = keras_vit.ViTTi16(input_shape=(64, 64, 3), classes=10, num_layers=2)
    >>> keras_vit.training.with_distillation_token(model).num_prefix_tokens
    2

    Reference: DeiT (arXiv:2012.12877) section 4, which trains the token from scratch.
    """
    if not isinstance(model, ViT) or isinstance(model, T2TViT):
        raise ValueError(f"model must be a keras_vit.ViT; received {model!r}.")
    config = model.get_config()
    if config["distillation_token"] or config["pooling"] != "token":
        raise ValueError(
            "A distillation token starts from the class token of a ViT with "
            "pooling='token' and distillation_token=False; received pooling="
            f"{config['pooling']!r} and distillation_token="
            f"{config['distillation_token']}."
        )
    values = model._values()
    encoder = "patch_encoder/"
    values[f"{encoder}distillation_token"] = values[f"{encoder}class_token"]
    if _POSITIONS in values and config["class_token_position"]:
        table = values[_POSITIONS]
        values[_POSITIONS] = np.concatenate([table[:, :1], table], axis=1)
    for path in [path for path in values if path.startswith("classifier/")]:
        values[f"distillation_{path}"] = values[path]
    return copied(model, {**config, "distillation_token": True}, values)
