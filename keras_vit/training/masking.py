"""Common parts of the self-supervised objectives that hide patches."""

import keras
from keras import ops

from keras_vit.layers import Patches
from keras_vit.models.t2t_vit import T2TViT
from keras_vit.models.vit import ViT
from keras_vit.training.backbone_model import UnlabeledModel
from keras_vit.training.schedules import is_number


class MaskedModel(UnlabeledModel):
    """Base class of models that predict something about patches hidden from a backbone.

    The model's graph uses the layers of the backbone, so training updates the backbone.
    The outputs are a dict: `"predictions"` `(b, k, d)` for `k` patches of each image, and
    `"patches"` `(b, k)`, the indices of these patches.

    A subclass implements `targets(images)` for all patches and passes its loss and its
    other constructor arguments to this constructor.

    Args:
        backbone: a `ViT`.
        images: symbolic input.
        outputs: symbolic outputs. One of the layers that compute them is called
            `prediction`.
        objective: a `keras.losses.Loss` of targets and predictions.
        arguments: dict of the subclass's constructor arguments, except the backbone and
            the name.
        name: name of the model.
    """

    def __init__(self, backbone, images, outputs, objective, arguments, name):
        super().__init__(backbone, images, outputs, arguments, name)
        self.objective = objective
        # Targets have the dtype of the loss, as bfloat16 would round pixels to 8 bits.
        self.cut = Patches(
            backbone.get_layer("patches").patch_size, dtype=objective.dtype, name="pixels"
        )

    def targets(self, images):
        """Return the prediction targets of every patch."""
        raise NotImplementedError

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
        """Return the weights by their paths within the model.

        The weights of the backbone come first and keep their paths in the backbone.

        Returns:
            Dict from path to `keras.Variable`.
        """
        scope = self.get_layer("prediction").path.removesuffix("prediction")
        return self._weights_beside_backbone(scope)


def by_patch(sample_weight):
    """Reshape weights of images so that they broadcast to values `(b, k)`."""
    return None if sample_weight is None else ops.reshape(sample_weight, (-1, 1))


def patches_at(values, places):
    """Select from `values` `(b, n)` or `(b, n, d)` the indices `places` `(b, k)`."""
    if len(values.shape) == 3:
        places = ops.expand_dims(places, -1)
    return ops.take_along_axis(values, places, axis=1)


def draw(generator, shape, training):
    """Sample uniform numbers in [0, 1); outside training they are always the same."""
    seed = generator if training else 0
    return keras.random.uniform(shape, dtype="float32", seed=seed)


def float_dtype(backbone):
    """Return the dtype of the head and loss: float32, or float64 for such a backbone."""
    return keras.backend.result_type(backbone.compute_dtype, "float32")


def check_backbone(backbone):
    """Raise a `ValueError` unless each token of the backbone stands for one patch."""
    if not isinstance(backbone, ViT) or isinstance(backbone, T2TViT):
        raise ValueError(
            "backbone must be a keras_vit.ViT, whose tokens are patches of the image "
            f"(those of a T2TViT overlap); received {backbone!r}."
        )
    config = backbone.resolved_config()
    if config["token_reduction"] is not None:
        raise ValueError(
            "All blocks of the backbone must compute all tokens: pass "
            "model.with_token_reduction(None); received token_reduction="
            f"{config['token_reduction']!r}."
        )
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
    if config["final_norm"] is None:
        raise ValueError(
            "The backbone has final_norm=None, and the prediction follows its norm: use "
            "final_norm='before_pooling'."
        )


def hidden_patches(ratio, backbone):
    """Return the number of hidden patches; raise a `ValueError` for none or all."""
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
