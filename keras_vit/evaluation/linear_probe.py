"""Linear probes: ridge regression on frozen features.

Source: ViT (arXiv:2010.11929) section 4.1, "Metrics"; big_vision's `fewshot_lsr`.
"""

from typing import Any

import keras
import numpy as np

from keras_vit.evaluation.accuracy import outputs
from keras_vit.training import config as configs
from keras_vit.training.image_sets import open_parts
from keras_vit.training.objectives import network
from keras_vit.training.runs import check_classes

# big_vision's.
REGULARIZATIONS = tuple(2.0**power for power in range(-10, 20))
SHOTS = (5, 10)
# Draws of the few images; the mean of their accuracies counts.
DRAWS = 5


def ridge(
    features: np.ndarray, labels: np.ndarray, classes: int, regularization: float
) -> tuple[np.ndarray, np.ndarray]:
    """The linear map from features to 1 for the label and -1 for other classes.

    Args:
        features: `(n, d)`, standardised.
        labels: `(n,)`, ints.
        classes: int.
        regularization: float above 0, weight of the squared kernel beside the sum of
            squared errors. The bias is not held back.

    Returns:
        Kernel `(d, classes)` and bias `(classes,)`, float64.
    """
    targets = 2.0 * np.eye(classes)[labels] - 1.0
    mean, center = features.mean(axis=0), targets.mean(axis=0)
    x, y = features - mean, targets - center
    n, d = x.shape
    if n < d:  # The smaller of two systems with the same solution.
        gram = x @ x.T + regularization * np.eye(n)
        kernel = x.T @ np.linalg.solve(gram, y)
    else:
        gram = x.T @ x + regularization * np.eye(d)
        kernel = np.linalg.solve(gram, x.T @ y)
    return kernel, center - mean @ kernel


def probe(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    classes: int,
) -> dict[str, Any]:
    """Test accuracy of the probe whose regularisation is the best on validation.

    Args:
        train: features `(n, d)` and labels `(n,)` to fit.
        validation: likewise, to choose by.
        test: likewise, to measure on.
        classes: int.

    Returns:
        Dict with `accuracy`, `validation_accuracy`, `regularization`.
    """
    mean, std = train[0].mean(axis=0), train[0].std(axis=0) + 1e-5

    def standardized(features):
        return (features - mean) / std

    found = []
    for regularization in REGULARIZATIONS:
        kernel, bias = ridge(standardized(train[0]), train[1], classes, regularization)

        def accuracy(part, kernel=kernel, bias=bias):
            scores = standardized(part[0]) @ kernel + bias
            return float(np.mean(scores.argmax(axis=1) == part[1]))

        found.append((accuracy(validation), regularization, accuracy))
    best, regularization, accuracy = max(found, key=lambda row: row[0])
    return {
        "accuracy": accuracy(test),
        "validation_accuracy": best,
        "regularization": regularization,
    }


def few(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Indices of `shots` images of each class.

    Raises:
        ValueError: a class has fewer.
    """
    generator = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        of_class = np.flatnonzero(labels == label)
        if len(of_class) < shots:
            raise ValueError(
                f"Class {label} has {len(of_class)} images; {shots} are needed."
            )
        chosen.append(generator.choice(of_class, shots, replace=False))
    return np.concatenate(chosen)


def features(model, source, config) -> tuple[np.ndarray, np.ndarray]:
    """What a model without a head makes of all images of a source, and their labels."""
    found, labels = [], []
    for values, batch_labels in outputs(model, source, config):
        if values.ndim == 3:  # Tokens of a model without pooling.
            values = values[:, model.num_prefix_tokens :].mean(axis=1)
        found.append(values)
        labels.append(batch_labels)
    return np.concatenate(found), np.concatenate(labels)


def linear_probe(config: configs.Config) -> dict[str, Any]:
    """Accuracies of probes with few images and with all.

    Args:
        config: the model or checkpoint, and `data`.

    Returns:
        Dict from `5-shot`, `10-shot` and `all` to `accuracy` (in few-shot the mean of
        several draws), `accuracies` of each draw, `regularization`.

    Raises:
        ValueError: a set is missing, or the sets differ in their classes.
    """
    keras.utils.set_random_seed(config.seed)
    data = config.data
    if not (data.train and data.validation and data.test):
        raise ValueError(
            "Which images? Set data.train, data.validation and data.test (--set "
            "data.train=tfds:NAME:SPLIT); of them, validation chooses the regularisation."
        )
    sources = open_parts(data)
    check_classes(sources)
    model = network(config, include_top=False)
    parts = {}
    for name, source in sources.items():
        print(f"features of {source.name} ...", flush=True)
        parts[name] = features(model, source, config)
    classes = sources["train"].num_classes
    x, y = parts["train"]
    results = {}
    for shots in SHOTS:
        if np.bincount(y, minlength=classes).min() < shots:
            print(f"No {shots}-shot probe: a class has fewer images.")
            continue
        draws = []
        for draw in range(DRAWS):
            chosen = few(y, shots, config.seed + draw)
            subset = x[chosen], y[chosen]
            draws.append(probe(subset, parts["validation"], parts["test"], classes))
        accuracies = [row["accuracy"] for row in draws]
        results[f"{shots}-shot"] = {
            "accuracy": float(np.mean(accuracies)),
            "accuracies": accuracies,
            "regularization": [row["regularization"] for row in draws],
        }
    results["all"] = probe((x, y), parts["validation"], parts["test"], classes)
    return results
