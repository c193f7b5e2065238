"""Where a model looks."""

import keras
import numpy as np
from keras import ops

from keras_vit.layers import TransformerBlock


def attention_rollout(model: keras.Model):
    """How much each part of the image counts for the prediction, by attention alone.

    Each block passes on half of what a token has, and half of what the token attends to,
    in the mean over heads; the product over all blocks says how much of each token of
    the grid arrives where the classifier looks: at the class token, with distillation at
    the mean of the two, and else at the mean of the grid. (A probe that attends, with
    `pooling="map"`, counts as that mean.) What comes before the first block, such as a
    stem, is left out.

    Args:
        model: a `keras_vit.ViT` with its classifier.

    Returns:
        Function from preprocessed images `(b, h, w, c)` to float32 `(b, gh, gw)`, 0 or
        more; the sum of a map is 1, less what tokens before the grid have.

    Source: arXiv:2005.00928, attention rollout.
    """
    blocks = [layer for layer in model.layers if isinstance(layer, TransformerBlock)]
    # By name: of a list with one block Keras gives back no list.
    network = keras.Model(model.inputs, {block.name: block.input for block in blocks})
    rows, columns = model.grid_shape
    prefix = model.num_prefix_tokens
    config = model.get_config()
    queries = np.zeros((1, 1, prefix + rows * columns), "float32")
    if config["pooling"] == "token":
        queries[..., 0] = 1.0
    else:
        queries[..., prefix:] = 1.0 / (rows * columns)
    if config["distillation_token"]:
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
