"""Figures that describe the predictions of a classifier."""

import dataclasses
import math

import numpy as np

from keras_vit.evaluation.classified import Predictions

# Quantile of the normal distribution for intervals of 95 %.
_NORMAL_95 = 1.959963984540054
BINS = 15


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Accuracy of the predictions by their probability, in bins of equal width.

    Attributes:
        confidence: mean probability of the predictions in each bin that is not empty.
        accuracy: fraction of correct predictions in it.
        counts: number of predictions in it.
        error: the expected calibration error: the mean difference of confidence and
            accuracy, weighted by the counts.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    counts: np.ndarray
    error: float


@dataclasses.dataclass(frozen=True)
class Figures:
    """Figures of a classifier, as scikit-learn defines them.

    Attributes:
        images: number of images.
        accuracy: fraction of correct predictions.
        interval: 95 % confidence interval of the accuracy (Wilson).
        top5: fraction of images whose label is among the five best classes.
        loss: mean negative log-likelihood of the labels under a softmax.
        precision: `(classes,)`; 0 for a class that was never predicted.
        recall: `(classes,)`; 0 for a class without images.
        f1: `(classes,)`.
        support: `(classes,)`, number of images.
        calibration: the calibration of the predicted class.
    """

    images: int
    accuracy: float
    interval: tuple[float, float]
    top5: float
    loss: float
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray
    calibration: Calibration


def figures(found: Predictions) -> Figures:
    """Compute the figures of some predictions.

    Args:
        found: the predictions.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    images = len(found.labels)
    precision, recall, f1, support = precision_recall_fscore_support(
        found.labels,
        found.predicted,
        labels=np.arange(len(found.class_names)),
        zero_division=0,
    )
    return Figures(
        images=images,
        accuracy=float(accuracy_score(found.labels, found.predicted)),
        interval=wilson_interval(int(found.correct.sum()), images),
        top5=float((found.ranks < 5).mean()),
        loss=float(found.losses.mean()),
        precision=precision,
        recall=recall,
        f1=f1,
        support=support,
        calibration=calibration(found.confidence, found.correct),
    )


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a probability by Wilson's formula.

    Args:
        successes: int, number of successes.
        trials: int, number of trials, 1 or more.

    Example:

    >>> from keras_vit.evaluation.classification_figures import wilson_interval
    >>> low, high = wilson_interval(90, 100)
    >>> round(low, 3), round(high, 3)
    (0.826, 0.945)

    Reference: E. B. Wilson, Probable inference, the law of succession, and statistical
    inference, JASA 22 (1927).
    """
    rate, square = successes / trials, _NORMAL_95**2 / trials
    center = (rate + square / 2) / (1 + square)
    spread = math.sqrt(rate * (1 - rate) / trials + square / (4 * trials)) * _NORMAL_95
    spread /= 1 + square
    return max(center - spread, 0.0), min(center + spread, 1.0)


def calibration(
    confidence: np.ndarray, correct: np.ndarray, bins: int = BINS
) -> Calibration:
    """Compare the probabilities of predictions with the fraction that is correct.

    Args:
        confidence: `(n,)`, probability of each prediction.
        correct: `(n,)`, bool.
        bins: int, number of bins between 0 and 1.

    Reference: arXiv:1706.04599.
    """
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    bin_of = np.searchsorted(edges, confidence)
    counts = np.bincount(bin_of, minlength=bins)
    filled = counts > 0
    sums = np.bincount(bin_of, np.asarray(confidence, "float64"), minlength=bins)
    hits = np.bincount(bin_of, np.asarray(correct, "float64"), minlength=bins)
    mean, accuracy = sums[filled] / counts[filled], hits[filled] / counts[filled]
    gaps = np.abs(mean - accuracy) * counts[filled]
    return Calibration(mean, accuracy, counts[filled], float(gaps.sum() / counts.sum()))


def confused_pairs(found: Predictions, most: int) -> list[tuple[int, int, int]]:
    """Return the pairs of classes that are confused most often.

    Args:
        found: the predictions.
        most: int, largest number of pairs.

    Returns:
        List of tuples `(label, prediction, images)`, most images first.
    """
    wrong = ~found.correct
    pairs = np.stack([found.labels[wrong], found.predicted[wrong]], axis=1)
    unique, counts = np.unique(pairs, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:most]
    return [(int(unique[i, 0]), int(unique[i, 1]), int(counts[i])) for i in order]
