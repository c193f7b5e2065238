"""Classifier activation of an export and the names of its outputs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

# Activations that return probabilities.
_PROBABILITIES = ("softmax", "sigmoid")


@dataclasses.dataclass(frozen=True)
class Head:
    """A classifier activation and the name of its output.

    Attributes:
        activation: function of the logits, or None if the model returns logits.
        output: name of the activation's output in an export: `"probabilities"` for
            softmax and sigmoid, `"outputs"` for any other activation, `"logits"` without
            an activation.
    """

    activation: Callable[[Any], Any] | None
    output: str

    @classmethod
    def of(cls, activation: str | None) -> "Head":
        """Return the head of a model with this `classifier_activation`."""
        if activation in (None, "linear"):
            return cls(None, "logits")
        known = activation in _PROBABILITIES
        function = keras.activations.get(activation)
        return cls(function, "probabilities" if known else "outputs")

    def outputs(self, logits: Any) -> dict[str, Any]:
        """Return a dict of the logits and, if there is one, the activation's output."""
        if self.activation is None:
            return {"logits": logits}
        return {"logits": logits, self.output: self.activation(logits)}

    def shown(self, value: float) -> str:
        """Return a value of `output` as text; probabilities are shown in percent."""
        return f"{value:7.2%}" if self.output == "probabilities" else f"{value:9.4f}"
