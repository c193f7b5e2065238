"""Metrics of multi-label classification and of regression, over whole data sets."""

from collections.abc import Sequence
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
    from sklearn.metrics import average_precision_score

    present = labels.sum(axis=0) > 0
    precision = [
        float(average_precision_score(labels[:, i], logits[:, i])) if present[i] else None
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


def regression(
    outputs: np.ndarray,
    labels: np.ndarray,
    scale: Sequence[tuple[float, float]] | None = None,
) -> dict[str, Any]:
    """Return the errors of predicted values.

    Args:
        outputs: `(n, values)`.
        labels: `(n, values)`.
        scale: mean and standard deviation by which the training of the model
            standardized each value; None for a loss in the units of the values.

    Returns:
        Dict with `mean_absolute_error`, `root_mean_squared_error` and `r2`, means over
        the values, and `loss`, the mean squared error in training. `r2` is None if a
        value is the same for all images.
    """
    errors = outputs - labels
    deviations = 1.0 if scale is None else np.array(scale)[:, 1]
    squares = (errors**2).sum(axis=0)
    spread = ((labels - labels.mean(axis=0)) ** 2).sum(axis=0)
    return {
        "mean_absolute_error": float(np.abs(errors).mean()),
        "root_mean_squared_error": float(np.sqrt((errors**2).mean())),
        "r2": float((1 - squares / spread).mean()) if (spread > 0).all() else None,
        "loss": float(((errors / deviations) ** 2).mean()),
    }
