"""Object detection with any ViT of the package as the backbone."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_vit.layers.detection_head import DetectionHead
from keras_vit.layers.feature_pyramid import SimpleFeaturePyramid
from keras_vit.models.dense_model import DenseModel, map_of


@keras.saving.register_keras_serializable(package="keras_vit")
class DetectionModel(DenseModel):
    """Model that predicts boxes: a plain ViT, a simple feature pyramid and one head.

    The model shares the backbone's layers: training updates them unless
    `backbone.trainable = False`. Train it with `keras_vit.DetectionLoss`.

    Input: images `(b, h, w, c)` as returned by `model.preprocessor`, which scales pixels
    and resizes whole images without the crop of the backbone's preprocessor.
    Output: `(b, locations, 5 + classes)`, float32: the box, the logit of the centerness
    and the logits of the classes of each location; see `keras_vit.layers.DetectionHead`.
    `model.detect` turns them into a list of boxes.

    Args:
        backbone: a `ViT`, with or without a classifier, which is not used.
        classes: int, number of classes.
        strides: strides of the pyramid in pixels, from fine to coarse; None for half the
            patch size, the patch size and twice the patch size. A stride finds objects
            whose larger side is about 8 to 16 strides; the first and the last one also
            find smaller and larger objects.
        filters: int, width of the pyramid and the head.
        num_convolutions: int, convolutions of each of the head's two towers.
        blocks: blocks whose tokens the pyramid receives, as for `ViT.features`: int n for
            the last n blocks, or a list of block numbers. Tokens of several blocks are
            concatenated.
        name: name of the model.

    Raises:
        ValueError: the backbone does not have such a block, a stride does not fit the
            patch size, or the patches do not divide the image.

    Example:

    >>> import keras, keras_vit
    >>> backbone = keras_vit.ViTTi16(
    ...     input_shape=(32, 48, 3), include_top=False, num_layers=2
    ... )
    >>> model = keras_vit.DetectionModel(backbone, classes=5, filters=32)
    >>> images = model.preprocessor(keras.random.uniform((1, 60, 60, 3), maxval=255))
    >>> tuple(model(images).shape)
    (1, 32, 10)
    >>> (found,) = model.detect(images, threshold=0.9)
    >>> found["boxes"].shape, found["labels"].shape, found["scores"].shape
    ((0, 4), (0,), (0,))

    Reference: ViTDet (arXiv:2203.16527) section 3 for backbone and pyramid; FCOS
    (arXiv:1904.01355) for head and loss, which take the place of ViTDet's Mask R-CNN.
    """

    def __init__(
        self,
        backbone: Any,
        classes: int,
        strides: Sequence[int] | None = None,
        filters: int = 128,
        num_convolutions: int = 2,
        blocks: int | Sequence[int] = 1,
        name: str | None = None,
    ):
        grid = map_of(backbone, blocks)
        patch = _patch_size(backbone)
        if strides is None:
            strides = patch // 2, patch, 2 * patch
        strides = tuple(np.asarray(strides).tolist())
        own = {"dtype": backbone.dtype_policy}
        pyramid = SimpleFeaturePyramid(filters, patch, strides, name="pyramid", **own)
        head = DetectionHead(classes, strides, num_convolutions, name="head", **own)
        super().__init__(backbone, blocks, head(pyramid(grid)), name)
        self.classes, self.strides = classes, strides
        self._options = {"filters": filters, "num_convolutions": num_convolutions}

    def detect(
        self,
        images: Any,
        threshold: float = 0.05,
        overlap: float = 0.5,
        limit: int = 100,
        batch_size: int = 16,
    ) -> list[dict[str, np.ndarray]]:
        """Return the objects on each image, the most probable ones first.

        The score of a box and a class is the square root of the probability of the class
        times the centerness. Of two boxes of one class that overlap, the one with the
        lower score is dropped (non-maximum suppression).

        Args:
            images: `(b, h, w, c)`, preprocessed.
            threshold: float, scores below it are dropped.
            overlap: float, IoU from which on two boxes show the same object.
            limit: int, largest number of objects per image.
            batch_size: int, images per step.

        Returns:
            A dict for each image: `boxes` `(n, 4)`, `y_min, x_min, y_max, x_max` in
            pixels, within the image; `labels` `(n,)`, int; and `scores` `(n,)`.
        """
        outputs = self.predict(images, batch_size=batch_size, verbose=0)
        height, width = self.input_shape[1:3]
        found = []
        for output in outputs:
            boxes = np.clip(output[:, :4], 0, [height, width, height, width])
            scores = np.sqrt(_sigmoid(output[:, 4:5]) * _sigmoid(output[:, 5:]))
            at, labels = np.nonzero(scores >= threshold)
            scores = scores[at, labels]
            order = np.argsort(-scores, kind="stable")[: 10 * limit]
            boxes, labels, scores = boxes[at][order], labels[order], scores[order]
            kept = suppress(boxes, labels, overlap)[:limit]
            entries = {"boxes": boxes, "labels": labels, "scores": scores}
            found.append({name: entry[kept] for name, entry in entries.items()})
        return found

    def get_config(self):
        own = {"classes": self.classes, "strides": self.strides, **self._options}
        return {**super().get_config(), **own}


def _patch_size(backbone):
    """Return the number of pixels of a patch, a side, after checking that it is one."""
    (height, width), (rows, columns) = backbone.input_shape[1:3], backbone.grid_shape
    patch = height // rows
    if (patch * rows, patch * columns) != (height, width):
        raise ValueError(
            f"The backbone's {rows}x{columns} patches do not divide its images of "
            f"{height}x{width} pixels, and boxes have places in pixels. Build the "
            "backbone for images whose height and width are multiples of the patch."
        )
    return patch


def _sigmoid(x):
    """Return the logistic function of an array, without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def pairwise_iou(one: Any, other: Any) -> np.ndarray:
    """Return the IoU of each pair of boxes, `(m, n)`.

    Args:
        one: `(m, 4)`, `y_min, x_min, y_max, x_max`.
        other: `(n, 4)`, likewise.
    """
    one, other = np.asarray(one)[:, None], np.asarray(other)[None]
    low = np.maximum(one[..., :2], other[..., :2])
    high = np.minimum(one[..., 2:], other[..., 2:])
    common = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1) for boxes in (one, other)]
    return common / np.maximum(areas[0] + areas[1] - common, 1e-9)


def suppress(boxes: np.ndarray, labels: np.ndarray, overlap: float) -> list[int]:
    """Return the indices of boxes that overlap no better box of their class.

    Args:
        boxes: `(n, 4)`, best first.
        labels: `(n,)`, classes of the boxes.
        overlap: float, smallest IoU of boxes of which one is dropped.
    """
    rivals = pairwise_iou(boxes, boxes) >= overlap
    rivals &= labels[:, None] == labels[None]
    kept: list[int] = []
    for index in range(len(boxes)):
        if not rivals[index, kept].any():
            kept.append(index)
    return kept
