"""Feature outputs of an exported model: pooled features and grid tokens."""

import keras
from keras import ops


def outputs_and_features(model: keras.Model) -> keras.Model:
    """Return a model that outputs features beside the logits and shares its weights.

    Args:
        model: a `keras_vit.ViT` with its classifier.

    Returns:
        A functional model with the same input that returns a dict: `logits`, the output
        of `model`; `pooled` `(b, d)`, the output of the same model with
        `include_top=False`; and `tokens` `(b, gh, gw, d)`, the grid tokens that are the
        input of the pooling layer: after the last norm, or before it with
        `final_norm="after_pooling"`.
    """
    layers = {layer.name: layer for layer in model.layers}
    head = layers.get("pre_logits", layers["classifier"])
    pooled = head.input
    if "distillation_pooling" in layers and model.get_config()["pooling"] == "token":
        tokens = [pooled, layers["distillation_pooling"].output]
        pooled = keras.layers.Average(dtype=pooled.dtype)(tokens)
    tokens = layers["pooling"].input[:, model.num_prefix_tokens :]
    grid = ops.reshape(tokens, (-1, *model.grid_shape, tokens.shape[-1]))
    outputs = {"logits": model.output, "pooled": pooled, "tokens": grid}
    return keras.Model(model.inputs, outputs)
