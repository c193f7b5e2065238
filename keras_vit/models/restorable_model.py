"""Base class of models whose config includes frozen weights, LoRA and quantization."""

import functools
from typing import Any

import keras

from keras_vit import processes
from keras_vit.layers.base import adapt, adaptations
from keras_vit.models.image_model import ImageModel
from keras_vit.models.lora import bases, check_mode


class RestorableModel(ImageModel):
    """Image model that its config restores completely, with stable paths of its weights.

    A subclass sets `dtype_policy` and `preprocessor`, stores the other arguments of its
    constructor in `_constructor_config`, has a layer named `_first_layer`, and implements
    `resolved_config` and `_values_for`.
    """

    _constructor_config: dict
    # Name of the first layer that has weights.
    _first_layer = "patch_encoder"

    # If a subclass defined this method, `inspect.signature` of the subclass would return
    # the signature of `__new__`.
    def __new__(cls, *args, **kwargs):
        model = super().__new__(cls, *args, **kwargs)
        # Keras wraps `quantize` in a check that requires a config for GPTQ. Check the
        # mode first.
        wrapped = model.quantize

        @functools.wraps(wrapped)
        def quantize(mode=None, config=None, **kwargs):
            check_mode(mode, config)
            return wrapped(mode, config, **kwargs)

        model.quantize = quantize
        return model

    def resolved_config(self) -> dict[str, Any]:
        """Return the constructor's arguments with defaults resolved, for converters."""
        raise NotImplementedError

    def _values_for(self, new: Any, resize: str) -> dict[str, Any]:
        """Return the values of this model's weights, adapted to a new model.

        Args:
            new: the same network with another image size, patch size or channels.
            resize: convention for resizing position embeddings.
        """
        raise NotImplementedError

    def weights_by_path(self):
        """Return the model's weights by their paths within the model.

        Checkpoints, sharding rules and weight-decay rules are written against these
        paths. They do not include the name scope in which the model was created.

        Returns:
            Dict from path to `keras.Variable`.

        Example:

        >>> import keras_vit
        >>> model = keras_vit.ViTTi16(input_shape=(32, 32, 3), classes=10, num_layers=2)
        >>> next(iter(model.weights_by_path()))
        'patch_encoder/class_token'
        """
        scope = self.weights_scope()
        return {weight.path.removeprefix(scope): weight for weight in self.weights}

    def _values(self):
        """Return the weights as NumPy arrays, by path."""
        weights = self.weights_by_path().items()
        return {path: processes.whole(weight) for path, weight in weights}

    def weights_scope(self):
        """Return the name scope of the model, which is a prefix of all Keras paths."""
        first = self._first_layer
        return self.get_layer(first).path.removesuffix(first)

    def quantize(self, mode=None, config=None, filters=None, **kwargs):
        """Quantize the dense layers, as `keras.Model.quantize` does.

        Args:
            mode: `"int8"`, `"int4"` or `"float8"`; may be omitted with a `config`.
            config: None, or one of Keras's quantization configs.
            filters: None, or a selection of layers; see `keras.Model.quantize`.
            **kwargs: as for `keras.Model.quantize`.

        Raises:
            ValueError: the mode is unknown, or it is `"gptq"` or `"awq"`, which Keras
                calibrates on text.
        """
        super().quantize(mode, config=config, filters=filters, **kwargs)

    def get_config(self):
        """Return the constructor's arguments, except those that load `weights`.

        Up to three additional entries restore the state of the weights: `frozen`, the
        paths of weights with `trainable = False`, `lora` and `quantized`.
        """
        policy = self.dtype_policy
        plain = type(policy) is keras.dtype_policies.DTypePolicy
        config = {
            **self._constructor_config,
            "preprocessor": keras.saving.serialize_keras_object(self.preprocessor),
            "name": self.name,
            "dtype": policy.name if plain else keras.dtype_policies.serialize(policy),
        }
        weights = self.weights_by_path().items()
        fixed = self._fixed | bases(self)
        frozen = [p for p, w in weights if not w.trainable and p not in fixed]
        if frozen:
            config["frozen"] = frozen
        return {**config, **adaptations(self, self.weights_scope())}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        frozen = set(config.pop("frozen", ()))
        added = {name: config.pop(name, {}) for name in ("lora", "quantized")}
        for argument in ("stem", "preprocessor"):
            if isinstance(config.get(argument), dict):
                config[argument] = keras.saving.deserialize_keras_object(
                    config[argument], custom_objects=custom_objects
                )
        model = cls(**config)
        adapt(model, model.weights_scope(), added)
        for path, weight in model.weights_by_path().items():
            if path in frozen:
                weight.trainable = False
        for layer in (*model.layers, model):
            if layer.weights and not any(weight.trainable for weight in layer.weights):
                layer.trainable = False
        return model
