"""What a served model tells besides its classes."""

import keras
from keras import ops


def outputs_and_features(model: keras.Model) -> keras.Model:
    """The model with its features as further outputs, on the same weights.

    Args:
        model: a `keras_vit.ViT` with its classifier.

    Returns:
        A functional model of the same input, whose output is a dict: `logits`, the
        model's own output; `pooled` `(b, d)`, what the model gives with
        `include_top=False`; and `tokens` `(b, gh, gw, d)`, the grid as the pooling
        takes it: after the last norm, or with `final_norm="after_pooling"` before it.
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
