"""The outputs that an export makes of a classifier's logits."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

# Activations whose values are probabilities.
_PROBABILITIES = ("softmax", "sigmoid")


@dataclasses.dataclass(frozen=True)
class Head:
    """A classifier's activation, and what its values are.

    Attributes:
        activation: function of logits; None where the model gives the logits themselves.
        output: name of its values in an export: `"probabilities"` of a softmax or a
            sigmoid, `"outputs"` of another activation, else `"logits"`.
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
        """Return the logits, and what the activation makes of them, by name."""
        if self.activation is None:
            return {"logits": logits}
        return {"logits": logits, self.output: self.activation(logits)}

    def shown(self, value: float) -> str:
        """Return a value of `output` as text: a probability in percent."""
        return f"{value:7.2%}" if self.output == "probabilities" else f"{value:9.4f}"
