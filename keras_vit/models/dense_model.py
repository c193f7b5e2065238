"""Base class of models that predict something for every position of an image."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.models.features import FeatureModel
from keras_vit.models.image_model import ImageModel


class DenseModel(ImageModel):
    """Model that computes its outputs from maps of a backbone, for whole images.

    Args:
        backbone: a `ViT`, with or without a classifier, which is not used.
        blocks: blocks whose tokens `outputs` were computed from.
        outputs: outputs of the graph that starts at `backbone.input`.
        name: name of the model.
    """

    def __init__(
        self,
        backbone: keras.Model,
        blocks: int | Sequence[int],
        outputs: Any,
        name: str | None,
    ):
        super().__init__(inputs=backbone.input, outputs=outputs, name=name)
        self.preprocessor = _without_crop(backbone)
        self._backbone = _Untracked(backbone)
        self._blocks = np.asarray(blocks).tolist()  # Arrays cannot be saved as such.

    @property
    def backbone(self):
        """The model whose layers compute the tokens."""
        return self._backbone.model

    def get_config(self):
        return {
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            "blocks": self._blocks,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        parts = {
            part: keras.saving.deserialize_keras_object(
                config[part], custom_objects=custom_objects
            )
            for part in ("backbone", "head")
            if part in config
        }
        return cls(**{**config, **parts})


def map_of(backbone: Any, blocks: int | Sequence[int]) -> Any:
    """Return the tokens of some blocks as one map, concatenated along the width.

    Args:
        backbone: a `ViT`.
        blocks: as for `ViT.features`.
    """
    maps = FeatureModel(backbone, blocks).outputs
    return maps[0] if len(maps) == 1 else ops.concatenate(maps, axis=-1)


class _Untracked:
    """Reference to a model, whose unused layers Keras would otherwise save and train."""

    def __init__(self, model: Any):
        self.model = model


def _without_crop(backbone):
    """Return the backbone's preprocessor for whole images of the model's size."""
    config = {
        **backbone.preprocessor.get_config(),
        "image_size": backbone.input_shape[1:3],
        "crop_fraction": None,
        "crop_to_aspect_ratio": False,
        "crop_rounding": "nearest",  # "floor" needs a crop_fraction.
    }
    return type(backbone.preprocessor).from_config(config)
