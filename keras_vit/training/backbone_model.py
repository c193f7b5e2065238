"""Base classes of the models whose training updates a backbone."""

from typing import Any

import keras

from keras_vit.models.image_model import ImageModel


class BackboneModel(ImageModel):
    """Base class of models that train a backbone in place.

    The graph of the model uses the layers of the backbone. A subclass has an argument
    `backbone`, and passes its other constructor arguments to this constructor.

    Args:
        backbone: the model that is trained.
        inputs: symbolic inputs.
        outputs: symbolic outputs.
        arguments: dict of the subclass's constructor arguments, except the backbone and
            the name.
        name: name of the model.
    """

    def __init__(
        self, backbone: Any, inputs: Any, outputs: Any, arguments: dict, name: str | None
    ):
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        self.backbone = backbone
        self._arguments = arguments

    @property
    def preprocessor(self):
        """The backbone's preprocessor."""
        return self.backbone.preprocessor

    def weights_by_path(self):
        """Return the weights of the backbone by their paths within the backbone.

        Returns:
            Dict from path to `keras.Variable`.
        """
        return self.backbone.weights_by_path()

    def _weights_beside_backbone(self, scope):
        """Return the weights of the backbone by path, and then all others.

        Args:
            scope: prefix that is removed from the paths of the others.
        """
        paths = self.backbone.weights_by_path()
        known = {id(weight) for weight in paths.values()}
        own = [weight for weight in self.weights if id(weight) not in known]
        return {**paths, **{weight.path.removeprefix(scope): weight for weight in own}}

    def get_config(self):
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            **self._arguments,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        backbone = keras.saving.deserialize_keras_object(
            config["backbone"], custom_objects=custom_objects
        )
        return cls(**{**config, "backbone": backbone})


class UnlabeledModel(BackboneModel):
    """Base class of models that train a backbone without labels, which are ignored."""

    def fit(self, x=None, y=None, *args, **kwargs):
        return super().fit(x, _labels_or_weights(y, kwargs), *args, **kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        return super().evaluate(x, _labels_or_weights(y, kwargs), *args, **kwargs)


def _labels_or_weights(y, arguments):
    """Return labels, or weights instead, since Keras drops weights without labels."""
    return arguments.get("sample_weight") if y is None else y
