"""Loss of `DetectionModel`: assign locations to boxes and compare the outputs."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.layers.detection_head import locations
from keras_vit.models.detection import DetectionModel

# A location is responsible for a box if it is inside of it, at most so many strides from
# its center, and if the farthest side is from 4 to 8 strides away.
_CENTER_STRIDES = 1.5
_REACH_STRIDES = 8
_ALPHA, _GAMMA = 0.25, 2.0


@keras.saving.register_keras_serializable(package="keras_vit")
class DetectionLoss(keras.losses.Loss):
    """Sum of focal loss, GIoU loss and centerness loss, per assigned location.

    A location is assigned to the smallest box that it lies in, if it is near the center
    of the box and its level fits the size of the box; all others are background. The
    sums over all locations are divided by the number of assigned ones in the batch.

    `y_true`: `(b, n, 5)`: `y_min, x_min, y_max, x_max` of each box in pixels, and its
    class. Rows with class -1 are padding.
    `y_pred`: output of a `DetectionModel`.

    Args:
        image_size: height and width of the model's images.
        strides: strides of the model's pyramid.
        reduction: as for `keras.losses.Loss`.
        name: name of the loss.
        dtype: as for `keras.losses.Loss`.

    Example:

    >>> import numpy as np, keras_vit
    >>> backbone = keras_vit.ViTTi16(
    ...     input_shape=(32, 48, 3), num_layers=1, include_top=False
    ... )
    >>> model = keras_vit.DetectionModel(backbone, classes=5, filters=32)
    >>> loss = keras_vit.DetectionLoss.of(model)
    >>> model.compile("adam", loss)
    >>> boxes = np.array([[[4.0, 8.0, 24.0, 30.0, 2.0], [0.0, 0.0, 0.0, 0.0, -1.0]]])
    >>> bool(loss(boxes, model(np.zeros((1, 32, 48, 3)))) > 0)
    True

    Reference: FCOS (arXiv:1904.01355) section 3 with center sampling as in its code,
    GIoU (arXiv:1902.09630).
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        strides: tuple[int, ...],
        reduction: str = "sum_over_batch_size",
        name: str = "detection_loss",
        dtype: Any = None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.image_size, self.strides = tuple(image_size), tuple(strides)

    @classmethod
    def of(cls, model: DetectionModel) -> "DetectionLoss":
        """Return the loss for a model.

        Args:
            model: a `DetectionModel`.
        """
        return cls(model.input_shape[1:3], model.strides)

    def call(self, y_true, y_pred):
        boxes, labels, assigned = self._assign(y_true)
        count = ops.shape(y_pred)[0]
        one_hot = ops.one_hot(ops.cast(labels, "int32"), y_pred.shape[-1] - 5)
        class_loss = ops.sum(
            focal_loss(one_hot * assigned[..., None], y_pred[..., 5:]), axis=-1
        )
        places = ops.convert_to_tensor(locations(self.image_size, self.strides))
        targets = centerness(boxes, places)
        box_loss = 1 - giou(boxes, y_pred[..., :4])
        center_loss = ops.binary_crossentropy(targets, y_pred[..., 4], from_logits=True)
        loss = class_loss + assigned * (box_loss + center_loss)
        # Keras takes the mean over the images.
        scale = ops.cast(count, loss.dtype) / ops.maximum(ops.sum(assigned), 1)
        return scale * ops.sum(loss, axis=-1)

    def _assign(self, y_true):
        """Return the box and the class of each location, and 1 if it has one, else 0."""
        places = locations(self.image_size, self.strides)
        stride = places[:, 2:]
        limits = [0, *(_REACH_STRIDES * s for s in self.strides[:-1])]
        lower = np.repeat(limits, [np.sum(stride == s) for s in self.strides])[:, None]
        upper = np.where(stride == self.strides[-1], np.inf, _REACH_STRIDES * stride)
        boxes, labels = y_true[:, None, :, :4], y_true[:, None, :, 4]
        # torch's tensors do not subtract arrays.
        places = ops.convert_to_tensor(places[:, None])
        sides = _distances(boxes, places)
        middle = (boxes[..., :2] + boxes[..., 2:]) / 2
        offset = ops.max(ops.abs(middle - places[..., :2]), axis=-1)
        reach = ops.max(sides, axis=-1)
        possible = (
            (labels >= 0)
            & (ops.min(sides, axis=-1) > 0)
            & (offset < ops.convert_to_tensor(_CENTER_STRIDES * stride))
            & (reach > ops.convert_to_tensor(lower.astype("float32")))
            & (reach <= ops.convert_to_tensor(upper.astype("float32")))
        )
        area = ops.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)
        area = ops.where(possible, area, ops.cast(float("inf"), area.dtype))
        best = ops.argmin(area, axis=-1)
        chosen = ops.take_along_axis(y_true, best[..., None], axis=1)
        assigned = ops.cast(ops.any(possible, axis=-1), y_true.dtype)
        return chosen[..., :4], chosen[..., 4], assigned

    def get_config(self):
        sizes = {"image_size": self.image_size, "strides": self.strides}
        return {**super().get_config(), **sizes}


def _distances(boxes, places):
    """Return the distances of locations `y, x, ...` to the four sides of boxes."""
    centers = places[..., :2]
    return ops.concatenate([centers - boxes[..., :2], boxes[..., 2:] - centers], axis=-1)


def focal_loss(targets, logits):
    """Return the focal loss of each logit, with alpha 0.25 and gamma 2.

    Args:
        targets: tensor of zeros and ones.
        logits: tensor of the same shape.
    """
    cross_entropy = ops.binary_crossentropy(targets, logits, from_logits=True)
    probabilities = ops.sigmoid(logits)
    error = targets * (1 - probabilities) + (1 - targets) * probabilities
    weight = targets * _ALPHA + (1 - targets) * (1 - _ALPHA)
    return weight * error**_GAMMA * cross_entropy


def centerness(boxes, places):
    """Return the centerness of locations in boxes, 1 in the middle and 0 at the sides.

    Args:
        boxes: `(..., 4)`, `y_min, x_min, y_max, x_max`.
        places: `(..., 2)` or more, starting with `y, x`.
    """
    sides = ops.maximum(_distances(boxes, places), 0)
    before, after = sides[..., :2], sides[..., 2:]
    ratios = ops.minimum(before, after) / ops.maximum(ops.maximum(before, after), 1e-6)
    return ops.sqrt(ops.prod(ratios, axis=-1))


def giou(boxes, others):
    """Return the generalized IoU of pairs of boxes, -1 to 1.

    Args:
        boxes: `(..., 4)`, `y_min, x_min, y_max, x_max`.
        others: likewise, of the same shape.
    """

    def area(low, high):
        return ops.prod(ops.maximum(high - low, 0), axis=-1)

    (low, high), (other_low, other_high) = (
        (x[..., :2], x[..., 2:]) for x in (boxes, others)
    )
    common = area(ops.maximum(low, other_low), ops.minimum(high, other_high))
    union = area(low, high) + area(other_low, other_high) - common
    hull = area(ops.minimum(low, other_low), ops.maximum(high, other_high))
    return common / ops.maximum(union, 1e-6) - 1 + union / ops.maximum(hull, 1e-6)
