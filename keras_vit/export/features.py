"""Feature outputs of an exported model: pooled features and grid tokens."""

import keras
from keras import ops

from keras_vit.models.features import blocks_of
from keras_vit.models.token_reduction import halts, original_tokens


def network_outputs(model: keras.Model) -> keras.Model:
    """Return a model that outputs logits and features and shares the model's weights.

    Args:
        model: a `keras_vit.ViT`.

    Returns:
        A functional model with the same input that returns a dict: `logits`, the output
        of a model with a classifier; `pooled` `(b, d)`, the output of the same model with
        `include_top=False`, except with `pooling=None`; and `tokens` `(b, gh, gw, d)`,
        the grid tokens that are the input of the pooling layer: after the last norm, or
        before it with `final_norm="after_pooling"`. Models whose tokens stop have none.
    """
    config, layers = model.get_config(), {layer.name: layer for layer in model.layers}
    outputs = {}
    if config["include_top"]:
        outputs["logits"] = model.output
        outputs["pooled"] = _input_of_head(layers, config)
    elif config["pooling"] is not None:
        outputs["pooled"] = model.output
    if halts(model):
        return keras.Model(model.input, outputs)
    tokens = model.output
    if config["pooling"] is not None:
        tokens = keras.tree.flatten(layers["pooling"].input)[0]
        if blocks := blocks_of(model):
            tokens = original_tokens(blocks[-1], tokens)
    grid = tokens[:, model.num_prefix_tokens :]
    outputs["tokens"] = ops.reshape(grid, (-1, *model.grid_shape, tokens.shape[-1]))
    return keras.Model(model.input, outputs)


def _input_of_head(layers, config):
    """Return the pooled features of a model with a classifier."""
    pooled = layers.get("pre_logits", layers["classifier"]).input
    if "distillation_pooling" in layers and config["pooling"] == "token":
        tokens = [pooled, layers["distillation_pooling"].output]
        pooled = keras.layers.Average(dtype=pooled.dtype)(tokens)
    return pooled
