"""Attention rollout: maps of the image regions that a prediction or features rest on."""

import keras
import numpy as np
from keras import ops

from keras_vit.layers import (
    AttentionPooling,
    SequencePooling,
    TokenAndAveragePooling,
    TokenPooling,
)
from keras_vit.models.features import blocks_of
from keras_vit.models.token_reduction import check_keeps_tokens


def attention_rollout(model: keras.Model):
    """Return a function that computes attention rollout maps for `model`.

    A map estimates how much each patch contributes to the output, from the attention
    weights alone. Each block is modeled as the mean of the identity (the residual branch)
    and its attention weights, averaged over heads. The product over all blocks gives the
    contribution of every grid token to the tokens that are pooled: the class token, the
    mean of class and distillation token, or the tokens that are averaged. Attention
    pooling (`pooling="map"`) pools with the weights of its probe, averaged over heads. No
    pooling (`pooling=None`) is treated as the mean of the grid. Layers before the first
    block, such as a convolutional stem, are not included.

    Args:
        model: a `keras_vit.ViT`.

    Returns:
        Function from preprocessed images `(b, h, w, c)` to float32 maps `(b, gh, gw)`
        with values of 0 or more. The values of a map sum to 1 minus the share of the
        prefix tokens.

    Raises:
        ValueError: the model merges tokens.

    Reference: arXiv:2005.00928, attention rollout.
    """
    check_keeps_tokens(model, "attention_rollout")
    blocks = blocks_of(model)
    # A dict, because Keras unpacks a list of outputs that has a single entry.
    outputs = {block.name: block.input for block in blocks}
    pooling = {layer.name: layer for layer in model.layers}.get("pooling")
    if isinstance(pooling, AttentionPooling | SequencePooling):
        outputs["pooling"] = pooling.input
    network = keras.Model(model.input, outputs)
    rows, columns = model.grid_shape
    prefix = model.num_prefix_tokens

    def rollout(images):
        tokens = network(images, training=False)
        if "pooling" in tokens:
            shares = _shares_of_probe(pooling, tokens["pooling"])
        else:
            shares = ops.convert_to_tensor(_shares(model, pooling))
        for block in reversed(blocks):
            weights = ops.mean(block.attention_weights(tokens[block.name]), axis=1)
            shares = (shares + ops.matmul(shares, weights)) / 2.0
        return ops.reshape(shares[:, 0, prefix:], (-1, rows, columns))

    return rollout


def _shares(model, pooling):
    """Return the share of each token in the pooled features: `(1, 1, n)`."""
    rows, columns = model.grid_shape
    prefix = model.num_prefix_tokens
    config = model.get_config()
    shares = np.zeros((1, 1, prefix + rows * columns), "float32")
    if isinstance(pooling, TokenPooling):
        shares[..., pooling.index] = 1.0
    elif isinstance(pooling, TokenAndAveragePooling):
        shares[..., 0] = 1.0
    else:
        first = prefix if pooling is None else pooling.num_prefix_tokens
        shares[..., first:] = 1.0 / (prefix + rows * columns - first)
    if config["distillation_token"] and pooling is not None:
        shares /= 2.0
        shares[..., 1] += 0.5
    return shares


def _shares_of_probe(pooling, tokens):
    """Return the attention of the probe to each token, mean over heads: `(b, 1, n)`."""
    shares = ops.mean(pooling.attention_weights(tokens), axis=1)
    # The probe does not see some of the prefix tokens.
    return ops.pad(shares, ((0, 0), (0, 0), (pooling.num_prefix_tokens, 0)))
