"""Base classes of the layers: their configs, with LoRA and quantization.

Keras stores LoRA and quantization in the config of a dense layer. A layer or model that
creates its parts from its own config has to save and restore them as well.
"""

import inspect
from typing import Any, ClassVar

import keras

from keras_vit.kernels.initial_values import without_budget


class Layer(keras.layers.Layer):
    """Layer whose config consists of the arguments of its constructor.

    Each argument is an attribute of the layer, with the same name or the name that
    `_attributes` has for it. Unless overridden, outputs have the shape of the inputs.
    """

    _attributes: ClassVar[dict[str, str]] = {}

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        config = super().get_config()
        for cls in type(self).__mro__:
            if issubclass(cls, Layer) and "__init__" in vars(cls):
                for argument in inspect.signature(cls.__init__).parameters:
                    name = self._attributes.get(argument, argument)
                    if hasattr(self, name):  # Neither `self` nor `kwargs`.
                        config.setdefault(argument, getattr(self, name))
        return config


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
    """Quantize layers and enable LoRA on them as recorded by `adaptations`.

    Args:
        whole: a layer or model, just built.
        scope: prefix that is removed from the paths.
        entries: the dict that `adaptations` returned; unknown paths are skipped.
    """
    layers = adaptable_layers(whole, scope) if any(entries.values()) else {}
    # Files contain neither LoRA's factors nor the weights before quantization.
    with without_budget():
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


class Composite(Layer):
    """Layer composed of layers, whose config includes their LoRA and quantization."""

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
