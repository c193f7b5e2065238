"""CLIP's vision model of transformers, alone or beside its text model."""

from typing import ClassVar

from keras_vit.weights.pieces import POSITIONS, Piece
from keras_vit.weights.published_pixels import pixels
from keras_vit.weights.transformers.siglip import BLOCK
from keras_vit.weights.transformers.source import TransformersSource

_PROJECTION = "visual_projection"


class ProjectedSource(TransformersSource):
    """Base class of vision models with a projection to the space shared with texts.

    The projection becomes the classifier, so that the model returns image embeddings (not
    normalized); without it the model returns the pooled features. The tensors of the text
    model are ignored.
    """

    prefixes: ClassVar[tuple[str, ...]] = ("vision_model.",)
    ignored: ClassVar[tuple[str, ...]] = (
        "text_model.",
        "text_projection.",
        "logit_scale",
        "embeddings.position_ids",
    )
    head_names: tuple[str, ...] = ("classifier.", f"{_PROJECTION}.")

    def num_classes(self):
        kernel = self.file.shapes.get(f"{_PROJECTION}.weight")
        return kernel[0] if kernel else super().num_classes()

    def _has_projection(self):
        return f"{_PROJECTION}.weight" in self.shapes

    def _labels(self):
        return None if self._has_projection() else super()._labels()

    def _classifier_activation(self, overrides, classes):
        if self._has_projection():
            return None
        return super()._classifier_activation(overrides, classes)

    @classmethod
    def add_head(cls, pieces, config):
        if config["pooling"] == "gap":  # A classifier for images alone.
            super().add_head(pieces, config)
            return
        width, classes = config["hidden_dim"], config["classes"]
        pieces.dense(_PROJECTION, "classifier", width, classes, bias=False)
        pieces.append(Piece("classifier/bias", (), (classes,), (classes,)))


class ClipSource(ProjectedSource):
    """Checkpoint source for `CLIPVisionModel` and `CLIPModel`.

    The last norm is applied to the pooled class token only. A model without pooling
    returns the tokens of the last block, like transformers.
    """

    kind = "transformers CLIP"
    usual_pixels = pixels("clip", crop_fraction=1.0, crop_rounding="floor")
    model_types = ("clip_vision_model", "clip")
    names = {  # noqa: RUF012
        "patches": "embeddings.patch_embedding",
        "class_token": "embeddings.class_embedding",
        "positions": "embeddings.position_embedding.weight",
        "embedding_norm": "pre_layrnorm",
        "norm": "post_layernorm",
    }
    blocks = (BLOCK,)
    is_square = True
    ranks = {POSITIONS: 2, "patch_encoder/class_token": 1}  # noqa: RUF012
    defaults = {  # noqa: RUF012
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
        "projection_dim": None,
    }
    open_arguments = {"activation": ("quick_gelu", "gelu")}  # noqa: RUF012
    possible = {  # noqa: RUF012
        **TransformersSource.possible,
        "pooling": ("token", "gap", None),
        "final_norm": ("after_pooling", None),
        "embedding_norm": ("tokens",),
        "layer_scale": (None,),
        "registers": (0,),
    }

    def _published_pixels(self):
        # One of the networks of this size that LAION published has a mean and std of 0.5.
        is_large = (self.shapes[self._kernel()][0], self.patches()[0]) == (1024, 14)
        return None if is_large else super()._published_pixels()

    def unused_names(self, config):
        unused = config["final_norm"] is None
        return (f"{self._prefix}{self.names['norm']}.",) if unused else ()

    def _own_config(self, config):
        # A classifier of transformers gets the mean of the tokens without the norm.
        classifier = self.num_classes() is not None and not self._has_projection()
        return {
            "embedding_norm": "tokens",
            "pooling": "gap" if classifier else "token",
            "final_norm": None if classifier else "after_pooling",
        }

    def infer_config(self, overrides):
        config = super().infer_config(overrides)
        if "pooling" in overrides and overrides["pooling"] is None:
            config["final_norm"] = None
        return config
