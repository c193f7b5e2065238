"""Linear probes: ridge regression on frozen features.

Reference: ViT (arXiv:2010.11929) section 4.1, "Metrics"; big_vision's `fewshot_lsr`.
"""

from typing import Any

import numpy as np

from keras_vit.evaluation.features import feature_network, features
from keras_vit.training import config as configs
from keras_vit.training.image_sets import check_single, open_parts
from keras_vit.training.runs import check_classes

# The values that big_vision tries.
REGULARIZATIONS = tuple(2.0**power for power in range(-10, 20))
SHOTS = (5, 10)
# Number of random subsets of the images; the mean of their accuracies is reported.
DRAWS = 5


def probe(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    classes: int,
) -> dict[str, Any]:
    """Fit probes, choose the regularization on the validation set, and test the best one.

    A probe is a ridge regression from standardized features to 1 for the label and -1
    for the other classes.

    Args:
        train: features `(n, d)` and labels `(n,)` that the probes are fitted to.
        validation: features and labels that the regularization is chosen on.
        test: features and labels that the accuracy is measured on.
        classes: int, number of classes.

    Returns:
        Dict with `accuracy`, `validation_accuracy`, `regularization`.
    """
    from sklearn.linear_model import Ridge

    mean = train[0].mean(axis=0, dtype="float64")
    std = train[0].std(axis=0, dtype="float64") + 1e-5
    targets = 2.0 * np.eye(classes)[train[1]] - 1.0

    def accuracy(model, part):
        scores = model.predict((part[0] - mean) / std)
        return float(np.mean(scores.argmax(axis=1) == part[1]))

    found = []
    for regularization in REGULARIZATIONS:
        model = Ridge(alpha=regularization).fit((train[0] - mean) / std, targets)
        found.append((accuracy(model, validation), regularization, model))
    best, regularization, model = max(found, key=lambda row: row[0])
    return {
        "accuracy": accuracy(model, test),
        "validation_accuracy": best,
        "regularization": regularization,
    }


def few(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Return the indices of `shots` randomly chosen images of each class.

    Args:
        labels: `(n,)`, ints.
        shots: int, number of images per class.
        seed: int, seed of the choice.

    Raises:
        ValueError: a class has fewer images.
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


def linear_probe(
    config: configs.Config, block: int | None = None, cache: str | None = None
) -> dict[str, Any]:
    """Measure the accuracy of linear probes fitted to few images and to all images.

    Args:
        config: config with the model or the checkpoint, and all three data sets.
        block: None, or the number of the block whose features are used.
        cache: None, or a directory of computed features.

    Returns:
        Dict with a dict for each of `5-shot`, `10-shot` and `all`: `accuracy`,
        `regularization` and, for `all`, `validation_accuracy`. For few-shot probes,
        `accuracy` is the mean over several draws, `accuracies` lists the accuracy of
        each draw and `regularization` that of each draw.

    Raises:
        ValueError: a data set is missing, or the data sets differ in their classes.
    """
    data = config.data
    if not (data.train and data.validation and data.test):
        raise ValueError(
            "A linear probe needs data.train, data.validation, which chooses the "
            "regularization, and data.test: --set data.train=tfds:NAME:SPLIT, and so on."
        )
    check_single(data)
    sources = open_parts(data)
    check_classes(sources)
    model = feature_network(config, block)
    parts = {part: features(model, sources[part], config, cache) for part in sources}
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
