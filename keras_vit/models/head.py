"""Pooling and classifier of a model, chosen by its arguments."""

from typing import Any

import keras

from keras_vit.layers import (
    AttentionPooling,
    Classifier,
    GlobalAveragePooling,
    SequencePooling,
    SimilarityClassifier,
    TokenAndAveragePooling,
    TokenPooling,
)
from keras_vit.layers.base import copy_of
from keras_vit.models.arguments import POOLING_LAYERS


def pooling_layer(network: Any) -> keras.layers.Layer:
    """Return the layer that pools the tokens.

    Args:
        network: the arguments of `ViT` with defaults resolved, `policy` and
            `num_prefix_tokens`.
    """
    n, own = network, {"dtype": network.policy, "name": "pooling"}
    if n.pooling == "token":
        return TokenPooling(**own)
    if n.pooling == "gap":
        return GlobalAveragePooling(n.num_prefix_tokens, **own)
    if n.pooling == "token_gap":
        return TokenAndAveragePooling(n.num_prefix_tokens, **own)
    if n.pooling == "sequence":
        return SequencePooling(n.num_prefix_tokens, **own)
    if n.pooling == "map":
        return AttentionPooling(
            n.num_heads,
            n.mlp_dim,
            n.num_prefix_tokens,
            activation=n.activation,
            layer_norm_epsilon=n.layer_norm_epsilon,
            norm=n.norm,
            **own,
        )
    return copy_of("pooling", n.pooling, POOLING_LAYERS, **own)


def without_own_arguments(classifier: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the stored config of a classifier without what the model's arguments state.

    Otherwise the model could not be made again with another activation.

    Args:
        classifier: what `keras_vit.layers.base.stored` returned.
    """
    if classifier is None:
        return None
    own = "units", "activation", "initial_bias"
    kept = {name: v for name, v in classifier["config"].items() if name not in own}
    return {**classifier, "config": kept}


def classifier_layer(network: Any, activation: str | None, name: str) -> Any:
    """Return a classifier.

    Args:
        network: the arguments of `ViT` with defaults resolved, and `policy`.
        activation: name of its activation, or None.
        name: name of the layer.
    """
    n = network
    own: dict[str, Any] = {"name": name, "dtype": head_dtype(n.policy)}
    if n.classifier is not None:
        own |= {"units": n.classes, "activation": activation}
        own["initial_bias"] = n.classifier_bias
        return copy_of("classifier", n.classifier, (SimilarityClassifier,), **own)
    initial = keras.initializers.Constant(n.classifier_bias)
    return Classifier(n.classes, activation=activation, bias_initializer=initial, **own)


def head_dtype(policy: keras.DTypePolicy) -> str:
    """Return float32, or float64 under a policy of float64.

    Args:
        policy: dtype policy of the model.
    """
    return keras.backend.result_type(policy.compute_dtype, "float32")
