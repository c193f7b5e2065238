"""Semantic segmentation with any ViT of the package as the backbone."""

from collections.abc import Sequence

import keras
from keras import ops

from keras_vit.models.dense_model import DenseModel, map_of


@keras.saving.register_keras_serializable(package="keras_vit")
class SegmentationModel(DenseModel):
    """Model that predicts a class for every pixel.

    The head computes logits for each patch from the tokens of the backbone; they are
    interpolated bilinearly to the size of the image. The model shares the backbone's
    layers: training updates them unless `backbone.trainable = False`.

    Input: images `(b, h, w, c)` as returned by `model.preprocessor`, which scales pixels
    and resizes whole images without the crop of the backbone's preprocessor.
    Output: logits `(b, h, w, classes)`, float32.

    Args:
        backbone: a `ViT`, with or without a classifier, which is not used.
        head: a layer from maps `(b, gh, gw, d)` to logits `(b, gh, gw, classes)`:
            `keras_vit.layers.Classifier(classes)` for a linear head,
            `keras_vit.layers.MaskTransformer(classes)`, or a layer of your own.
        blocks: blocks whose tokens the head receives, as for `ViT.features`: int n for
            the last n blocks, or a list of block numbers. Tokens of several blocks are
            concatenated.
        name: name of the model.

    Raises:
        ValueError: the backbone does not have such a block, or the output of the head is
            not a map of the backbone's grid.

    Example:

    >>> import keras, keras_vit
    >>> backbone = keras_vit.ViTTi16(
    ...     input_shape=(32, 48, 3), include_top=False, num_layers=2
    ... )
    >>> head = keras_vit.layers.MaskTransformer(classes=5)
    >>> model = keras_vit.SegmentationModel(backbone, head)
    >>> pixels = keras.random.uniform((1, 60, 60, 3), maxval=255)
    >>> tuple(model(model.preprocessor(pixels)).shape)
    (1, 32, 48, 5)

    Reference: Segmenter (arXiv:2105.05633) section 3.
    """

    def __init__(
        self,
        backbone: keras.Model,
        head: keras.layers.Layer,
        blocks: int | Sequence[int] = 1,
        name: str | None = None,
    ):
        grid = map_of(backbone, blocks)
        logits = head(grid)
        if tuple(logits.shape[:-1]) != tuple(grid.shape[:-1]):
            raise ValueError(
                "The head must return a map (batch, rows, columns, classes) with "
                f"{grid.shape[1]} rows and {grid.shape[2]} columns, one for each patch; "
                f"{head.name!r} returned shape {tuple(logits.shape)}."
            )
        logits = ops.image.resize(
            ops.cast(logits, "float32"),
            backbone.input_shape[1:3],
            interpolation="bilinear",
            data_format="channels_last",
        )
        super().__init__(backbone, blocks, logits, name)
        self.head = head

    def get_config(self):
        head = keras.saving.serialize_keras_object(self.head)
        return {**super().get_config(), "head": head}
