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


def make_trainable(whole: Any) -> None:
    """Make all weights trainable, except those that are created as constants.

    Under TensorFlow, `whole.trainable = True` has no effect if it is True already, even
    if layers or weights in it are frozen.

    Args:
        whole: a layer or model.
    """
    for layer in whole._flatten_layers():
        layer.trainable = True
        for weight in layer._trainable_variables:
            weight.trainable = True


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
                check_rank(path, layers[path], rank)
                layers[path].enable_lora(rank, lora_alpha=alpha)


def check_rank(path: str, layer: Any, rank: Any) -> None:
    """Raise a `ValueError` unless LoRA of a layer can have a rank.

    Args:
        path: path of the layer, for the message.
        layer: the layer.
        rank: the rank.
    """
    largest = max(size for weight in layer.weights for size in weight.shape)
    if not isinstance(rank, int) or not 0 < rank <= largest:
        raise ValueError(
            f"LoRA of {path} must have a rank from 1 to {largest}, the layer's width; "
            f"received {rank!r}."
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


def stored(argument: Any) -> Any:
    """Return an argument of a constructor as configs store it: layers as their configs.

    Args:
        argument: a layer, a list of layers and other values, or another value.
    """
    if isinstance(argument, list | tuple):
        return [stored(entry) for entry in argument]
    if isinstance(argument, keras.layers.Layer):
        return keras.saving.serialize_keras_object(argument)
    return argument


def restored(argument: Any) -> Any:
    """Undo `stored`.

    Args:
        argument: what `stored` returned, or a layer.
    """
    if isinstance(argument, list | tuple):
        return [restored(entry) for entry in argument]
    if isinstance(argument, dict):
        return keras.saving.deserialize_keras_object(argument)
    return argument


def description(argument: Any) -> Any:
    """Return an argument of a constructor in a form that compares equal for equal layers.

    Args:
        argument: a layer, a list of layers and other values, or another value; or what
            `stored` returns for it.
    """
    argument = restored(argument)
    if isinstance(argument, list):
        return [description(entry) for entry in argument]
    if isinstance(argument, keras.layers.Layer):
        config = argument.get_config()
        options = {k: v for k, v in config.items() if k not in ("name", "dtype")}
        return type(argument).__name__, options
    return argument


def in_words(argument: Any) -> str:
    """Return an argument of a constructor as code, such as `MLP(hidden_dim=8)`.

    Args:
        argument: as for `description`.
    """
    argument = restored(argument)
    if isinstance(argument, list):
        return f"[{', '.join(map(in_words, argument))}]"
    if not isinstance(argument, keras.layers.Layer):
        return repr(argument)
    name, options = description(argument)
    usual = {option: _default(type(argument), option) for option in options}
    changed = [f"{k}={v!r}" for k, v in options.items() if v != usual[k]]
    return f"{name}({', '.join(changed)})"


def copy_of(argument: str, layer: Any, classes: tuple[type, ...], **settings: Any) -> Any:
    """Return a new layer with the config of another one, except for some settings.

    Args:
        argument: name of the constructor's argument, used in error messages.
        layer: a layer, or its config as `stored` returns it.
        classes: the allowed classes.
        **settings: arguments of the new layer. The given layer must not set them to
            anything else than their defaults, or the same values.

    Raises:
        ValueError: the layer is of another class, has weights, or contradicts the
            settings.
    """
    layer = restored(layer)
    if not any(isinstance(layer, kind) for kind in classes):
        allowed = " or ".join(map(_importable, classes))
        raise ValueError(f"{argument} must be a {allowed}; received {layer!r}.")
    if layer.weights:
        raise ValueError(
            f"The layer given as {argument} has weights already, which would be lost: "
            "layers of their own are made from its config. Pass a new layer."
        )
    config = layer.get_config()
    for name, value in settings.items():
        given, default = config[name], _default(type(layer), name)
        if name not in ("name", "dtype") and given not in (default, value):
            raise ValueError(
                f"The layer given as {argument} has {name}={given!r}, and its place in "
                f"the network requires {value!r}: omit {name} there."
            )
    return type(layer).from_config({**config, **settings})


def _importable(layer_class):
    """Return the name under which a layer's class can be imported."""
    from keras_vit import layers  # This package imports the module.

    public = getattr(layers, layer_class.__name__, None) is layer_class
    module = "keras_vit.layers" if public else layer_class.__module__
    return f"{module}.{layer_class.__name__}"


def _default(layer_class, argument):
    """Return the default of an argument of a layer's constructor."""
    for cls in layer_class.__mro__:
        if "__init__" in vars(cls):
            parameters = inspect.signature(cls.__init__).parameters
            if argument in parameters:
                return parameters[argument].default
    return None
