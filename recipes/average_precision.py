"""COCO's average precision of detected boxes, in NumPy."""

import numpy as np

from keras_vit.models.detection import pairwise_iou

THRESHOLDS = np.arange(0.5, 1.0, 0.05)
_RECALLS = np.linspace(0, 1, 101)


def average_precision(found, true, classes, thresholds=THRESHOLDS):
    """Return the average precision of each class at each IoU threshold.

    Detections of all images are ranked by score. Each one is matched to the box of its
    image and class with the largest IoU among those that no better detection was matched
    to; without a match, or below the threshold, it is wrong. The average precision is the
    mean of the interpolated precision at 101 recalls.

    Args:
        found: list with a dict for each image: `boxes` `(n, 4)`, `labels` and `scores`
            `(n,)`, as `DetectionModel.detect` returns them.
        true: list with an array `(m, 5)` for each image: boxes and classes.
        classes: int, number of classes.
        thresholds: IoUs from which on a match is right.

    Returns:
        `(classes, thresholds)`; NaN for classes that `true` does not contain.

    Reference: pycocotools, with all areas and without crowds or difficult objects.
    """
    result = np.full((classes, len(thresholds)), np.nan)
    for label in range(classes):
        boxes = [t[t[:, 4] == label, :4] for t in true]
        total = sum(map(len, boxes))
        if not total:
            continue
        ranked = [
            (score, image, box)
            for image, entry in enumerate(found)
            for score, box, kind in zip(
                entry["scores"], entry["boxes"], entry["labels"], strict=True
            )
            if kind == label
        ]
        ranked.sort(key=lambda detection: -detection[0])
        ious = [
            (image, pairwise_iou(box[None], boxes[image])[0]) for _, image, box in ranked
        ]
        for column, threshold in enumerate(thresholds):
            right = _matches(ious, boxes, threshold)
            result[label, column] = _area(right, total)
    return result


def _matches(ious, boxes, threshold):
    """Return for each ranked detection whether it is right."""
    free = [np.ones(len(b), bool) for b in boxes]
    right = np.zeros(len(ious), bool)
    for rank, (image, overlaps) in enumerate(ious):
        overlaps = np.where(free[image], overlaps, -1.0)
        if len(overlaps) and overlaps.max() >= threshold:
            free[image][overlaps.argmax()] = False
            right[rank] = True
    return right


def _area(right, total):
    """Return the mean of the interpolated precision at 101 recalls."""
    correct = np.cumsum(right)
    precision = correct / np.arange(1, len(right) + 1)
    # The best precision at this recall or a higher one.
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(correct / total, _RECALLS, side="left")
    return np.append(precision, 0.0)[at].mean()
