"""LoRA and quantization that Keras has added to layers inside of layers.

Keras keeps both in the config of the layer that they were added to. A layer or model that
makes its parts from its own config has to save what was added and to add it again.
"""

from typing import Any

import keras

from keras_vit.layers.initial_values import without_budget


def adaptable_layers(whole: Any, scope: str) -> dict[str, Any]:
    """Return the layers to which Keras can add LoRA or quantization, by path.

    Args:
        whole: a layer or model.
        scope: prefix that is removed from the paths.
    """
    return {
        layer.path.removeprefix(scope): layer
        for layer in whole._flatten_layers(include_self=False)
        if hasattr(layer, "enable_lora") and layer.built
    }


def adaptations(whole: Any, scope: str) -> dict[str, dict[str, Any]]:
    """Return the config entries that `adapt` takes; none for ordinary layers.

    Args:
        whole: a layer or model.
        scope: prefix that is removed from the paths.

    Returns:
        Dict with up to two entries, each a dict from a layer's path: `lora` to its rank
        and alpha, `quantized` to its mode and Keras's quantization config.
    """
    lora, quantized = {}, {}
    for path, layer in adaptable_layers(whole, scope).items():
        if layer.lora_enabled:
            lora[path] = [layer.lora_rank, layer.lora_alpha]
        if layer.quantization_mode is not None:
            config = keras.saving.serialize_keras_object(layer.quantization_config)
            quantized[path] = [layer.quantization_mode, config]
    entries = {"lora": lora, "quantized": quantized}
    return {name: entry for name, entry in entries.items() if entry}


def adapt(whole: Any, scope: str, entries: dict[str, dict[str, Any]]) -> None:
    """Quantize layers and enable LoRA on them as `adaptations` found it.

    Args:
        whole: a layer or model, just built.
        scope: prefix that is removed from the paths.
        entries: of `adaptations`; paths that do not exist are skipped.
    """
    layers = adaptable_layers(whole, scope) if any(entries.values()) else {}
    with without_budget():  # Files do not have LoRA's factors, nor what was quantized.
        for path, (mode, config) in entries.get("quantized", {}).items():
            if path in layers:
                config = keras.saving.deserialize_keras_object(config)
                layers[path].quantize(mode, type_check=False, config=config)
        for path, (rank, alpha) in entries.get("lora", {}).items():
            if path in layers:
                _check_rank(path, layers[path], rank)
                layers[path].enable_lora(rank, lora_alpha=alpha)


def _check_rank(path, layer, rank):
    largest = max(size for weight in layer.weights for size in weight.shape)
    if not isinstance(rank, int) or not 0 < rank <= largest:
        raise ValueError(
            f"LoRA of {path} must have a rank from 1 to {largest}, the layer's width; "
            f"the config has {rank!r}."
        )


class Composite(keras.layers.Layer):
    """A layer made of layers, whose config includes what Keras has added to them."""

    _added: dict[str, Any] | None = None

    def __call__(self, *args, **kwargs):
        outputs = super().__call__(*args, **kwargs)
        self._adapt()
        return outputs

    def build_from_config(self, config):
        super().build_from_config(config)
        self._adapt()

    def _adapt(self):
        added, self._added = self._added, None
        if added:
            adapt(self, f"{self.path}/", added)

    def get_config(self):
        return {**super().get_config(), **adaptations(self, f"{self.path}/")}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        names = ("lora", "quantized")
        added = {name: config.pop(name) for name in names if name in config}
        layer = super().from_config(config)
        if added:
            layer._added = added
        return layer
