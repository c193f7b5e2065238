"""Attention rollout: maps of the image regions that a prediction or features rest on."""

import keras
import numpy as np
from keras import ops

from keras_vit.layers import TokenPooling
from keras_vit.models.features import blocks_of


def attention_rollout(model: keras.Model):
    """Return a function that computes attention rollout maps for `model`.

    A map estimates how much each patch contributes to the output, from the attention
    weights alone. Each block is modeled as the mean of the identity (the residual branch)
    and its attention weights, averaged over heads. The product over all blocks gives the
    contribution of every grid token to the tokens that are pooled: the class token, the
    mean of class and distillation token, or the mean of the grid. Attention pooling
    (`pooling="map"`) and no pooling (`pooling=None`) are treated as the mean of the grid.
    Layers before the first block, such as a convolutional stem, are not included.

    Args:
        model: a `keras_vit.ViT`.

    Returns:
        Function from preprocessed images `(b, h, w, c)` to float32 maps `(b, gh, gw)`
        with values of 0 or more. The values of a map sum to 1 minus the share of the
        prefix tokens.

    Reference: arXiv:2005.00928, attention rollout.
    """
    blocks = blocks_of(model)
    # A dict, because Keras unpacks a list of outputs that has a single entry.
    network = keras.Model(model.input, {block.name: block.input for block in blocks})
    rows, columns = model.grid_shape
    prefix = model.num_prefix_tokens
    config = model.get_config()
    pooling = {layer.name: layer for layer in model.layers}.get("pooling")
    queries = np.zeros((1, 1, prefix + rows * columns), "float32")
    if isinstance(pooling, TokenPooling):
        queries[..., pooling.index] = 1.0
    elif config["pooling"] == "token_gap":
        queries[..., 0] = 1.0
    else:
        queries[..., prefix:] = 1.0 / (rows * columns)
    if config["distillation_token"] and pooling is not None:
        queries /= 2.0
        queries[..., 1] += 0.5

    def rollout(images):
        shares = ops.convert_to_tensor(queries)
        tokens = network(images, training=False)
        for block in reversed(blocks):
            weights = ops.mean(block.attention_weights(tokens[block.name]), axis=1)
            shares = (shares + ops.matmul(shares, weights)) / 2.0
        return ops.reshape(shares[:, 0, prefix:], (-1, rows, columns))

    return rollout
