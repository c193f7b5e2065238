"""Outputs of an export: those of the classifier, or the features of a headless model."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras

# Activations that return probabilities.
_PROBABILITIES = ("softmax", "sigmoid")
FEATURES = ("pooled", "tokens")


@dataclasses.dataclass(frozen=True)
class Head:
    """The activation of a classifier and the name of the main output of an export.

    Attributes:
        activation: function of the logits, or None if the export returns the logits or
            features.
        output: name of the main output: `"probabilities"` for softmax and sigmoid,
            `"outputs"` for any other activation, `"logits"` without an activation;
            without a classifier `"pooled"`, or `"tokens"` for a model that does not pool.
    """

    activation: Callable[[Any], Any] | None
    output: str

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Head":
        """Return the head of the model with a config."""
        if not config["include_top"]:
            return cls(None, "tokens" if config["pooling"] is None else "pooled")
        activation = config["classifier_activation"]
        if activation in (None, "linear"):
            return cls(None, "logits")
        known = activation in _PROBABILITIES
        function = keras.activations.get(activation)
        return cls(function, "probabilities" if known else "outputs")

    @property
    def classifies(self) -> bool:
        """Return True if the model has a classifier."""
        return self.output not in FEATURES

    def outputs(self, network_outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the outputs of the signature `serving_default`.

        Args:
            network_outputs: the outputs of `keras_vit.export.features.network_outputs`.

        Returns:
            Dict of the logits and, if there is one, the activation's output; for a model
            without a classifier, of its features.
        """
        if not self.classifies:
            return features(network_outputs)
        logits = network_outputs["logits"]
        if self.activation is None:
            return {"logits": logits}
        return {"logits": logits, self.output: self.activation(logits)}

    def shown(self, value: float) -> str:
        """Return a value of `output` as text; probabilities are shown in percent."""
        return f"{value:7.2%}" if self.output == "probabilities" else f"{value:9.4f}"


def features(network_outputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pooled features, if there are any, and the grid tokens."""
    return {name: network_outputs[name] for name in FEATURES if name in network_outputs}
