"""Metrics of multi-label classification and of regression, over whole data sets."""

from typing import Any

import numpy as np


def multi_label(logits: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return the metrics of independent sigmoids.

    Args:
        logits: `(n, classes)`.
        labels: zeros and ones, `(n, classes)`.

    Returns:
        Dict with `mean_average_precision` and `macro_f1`, means over the classes that
        occur; `label_accuracy`, the fraction of right answers over all images and
        classes; `loss`, the mean of the summed cross-entropy; and `average_precision`, a
        list with one value per class, None for classes that do not occur. An answer is
        yes above a probability of one half.
    """
    present = labels.sum(axis=0) > 0
    precision = [
        average_precision(logits[:, i], labels[:, i]) if present[i] else None
        for i in range(labels.shape[1])
    ]
    answers = logits > 0
    hits = (answers & (labels > 0)).sum(axis=0)
    f1 = 2 * hits / np.maximum(answers.sum(axis=0) + labels.sum(axis=0), 1)
    losses = np.logaddexp(0, logits) - labels * logits
    known = [value for value in precision if value is not None]
    return {
        "mean_average_precision": float(np.mean(known)) if known else float("nan"),
        "macro_f1": float(f1[present].mean()) if known else float("nan"),
        "label_accuracy": float((answers == (labels > 0)).mean()),
        "loss": float(losses.sum(axis=1).mean()),
        "average_precision": precision,
    }


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the area under the curve of precision over recall, as scikit-learn does.

    Args:
        scores: `(n,)`.
        labels: zeros and ones, `(n,)`, with at least one 1.
    """
    order = np.argsort(-scores, kind="stable")
    sorted_labels = labels[order]
    hits = np.cumsum(sorted_labels)
    # Examples with the same score have the same rank, that of the last of them.
    last = np.append(np.diff(scores[order]) != 0, True)
    recall = hits[last] / hits[-1]
    precision = hits[last] / (np.flatnonzero(last) + 1)
    return float(np.sum(np.diff(recall, prepend=0) * precision))


def regression(outputs: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Return the errors of predicted values.

    Args:
        outputs: `(n, values)`.
        labels: `(n, values)`.

    Returns:
        Dict with `mean_absolute_error`, `root_mean_squared_error` and `r2`, means over
        the values, and `loss`, the mean squared error. `r2` is None if a value is the
        same for all images.
    """
    errors = outputs - labels
    squares = (errors**2).sum(axis=0)
    spread = ((labels - labels.mean(axis=0)) ** 2).sum(axis=0)
    return {
        "mean_absolute_error": float(np.abs(errors).mean()),
        "root_mean_squared_error": float(np.sqrt((errors**2).mean())),
        "r2": float((1 - squares / spread).mean()) if (spread > 0).all() else None,
        "loss": float((errors**2).mean()),
    }


METRICS = {"multi": multi_label, "regression": regression}
