"""What the objectives that hide patches have in common."""

import keras
from keras import ops

from keras_vit.layers import Patches
from keras_vit.models.image_model import ImageModel
from keras_vit.models.t2t_vit import T2TViT
from keras_vit.models.vit import ViT
from keras_vit.training.schedules import is_number


class MaskedModel(ImageModel):
    """A model that predicts something of the patches that its backbone did not see.

    Its graph runs through the layers of the backbone, which so has the trained weights.
    Its outputs are a dict: `"predictions"` `(b, k, d)` and `"patches"` `(b, k)`, the
    places of the `k` patches of each image that they are of.

    A subclass has `targets(images)` of all patches, a loss in `objective`, and the
    constructor's other arguments in `_arguments`.

    Args:
        backbone: a `ViT`.
        images: the symbolic input.
        outputs: the symbolic outputs. A layer called `prediction` is among those that
            make them.
        objective: a `keras.losses.Loss` of targets and predictions.
        arguments: dict, the constructor's arguments but the backbone and the name.
        name: name of the model.
    """

    def __init__(self, backbone, images, outputs, objective, arguments, name):
        super().__init__(inputs=images, outputs=outputs, name=name)
        self.backbone = backbone
        self.objective = objective
        # In the loss's float32: bfloat16 has no more than 256 steps between -1 and 1.
        self.cut = Patches(
            backbone.get_layer("patches").patch_size, dtype=objective.dtype, name="pixels"
        )
        self._arguments = arguments

    @property
    def preprocessor(self):
        """The backbone's."""
        return self.backbone.preprocessor

    def targets(self, images):
        """What is to be predicted, of every patch."""
        raise NotImplementedError

    def fit(self, x=None, y=None, *args, **kwargs):
        return super().fit(x, _labels(y, kwargs), *args, **kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        return super().evaluate(x, _labels(y, kwargs), *args, **kwargs)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        return self.objective(
            *self._targets_and_predictions(x, y_pred), by_patch(sample_weight)
        )

    def _targets_and_predictions(self, images, outputs):
        targets = patches_at(self.targets(images), outputs["patches"])
        return targets, outputs["predictions"]

    def weights_by_path(self):
        """The weights, by their paths within the model.

        Those of the backbone come first and have the paths that they have there.

        Returns:
            Dict from path to `keras.Variable`.
        """
        paths = self.backbone.weights_by_path()
        known = {id(weight) for weight in paths.values()}
        scope = self.get_layer("prediction").path.removesuffix("prediction")
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


def _labels(y, arguments):
    """Labels, unused; where there are none, Keras would drop the weights in silence."""
    return arguments.get("sample_weight") if y is None else y


def by_patch(sample_weight):
    """One weight an image, for values `(b, k)`."""
    return None if sample_weight is None else ops.reshape(sample_weight, (-1, 1))


def patches_at(values, places):
    """Of `values` `(b, n)` or `(b, n, d)`, those at `places` `(b, k)` of each image."""
    if len(values.shape) == 3:
        places = ops.expand_dims(places, -1)
    return ops.take_along_axis(values, places, axis=1)


def draw(generator, shape, training):
    """Uniform numbers, 0 to 1: in training new ones, otherwise the same every time."""
    seed = generator if training else 0
    return keras.random.uniform(shape, dtype="float32", seed=seed)


def float_dtype(backbone):
    """Of the head and the loss: float32, or float64 where the backbone has that."""
    return keras.backend.result_type(backbone.compute_dtype, "float32")


def check_backbone(backbone):
    """Raises a `ValueError` unless the backbone gives tokens of patches of the image."""
    if not isinstance(backbone, ViT) or isinstance(backbone, T2TViT):
        raise ValueError(
            "backbone must be a keras_vit.ViT, whose tokens are patches of the image "
            f"(those of a T2TViT overlap); received {backbone!r}."
        )
    config = backbone.resolved_config()
    if config["stem"] is not None:
        raise ValueError(
            "The backbone has a stem: its tokens see more of the image than their patch, "
            "so nothing would be hidden. Use a ViT with stem=None."
        )
    if config["include_top"] or config["pooling"] == "map":
        raise ValueError(
            "The backbone must end in tokens or their plain pooling, since what comes "
            "after them would not be trained: build it with include_top=False and "
            "pooling='token', 'gap' or None; received include_top="
            f"{config['include_top']}, pooling={config['pooling']!r}."
        )


def hidden_patches(ratio, backbone):
    """How many patches are hidden; raises a `ValueError` for none or all."""
    gh, gw = backbone.grid_shape
    if not is_number(ratio) or not 0 < ratio < 1:
        raise ValueError(f"ratio must be a number between 0 and 1; received {ratio!r}.")
    hidden = round(ratio * gh * gw)
    if not 0 < hidden < gh * gw:
        raise ValueError(
            f"ratio={ratio!r} of the {gh * gw} patches of an image is {hidden}: at least "
            "one must be hidden and one visible. Change the ratio, or use smaller "
            "patches."
        )
    return hidden
