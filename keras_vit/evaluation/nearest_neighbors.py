"""Classification by the nearest neighbors in the space of features."""

from typing import Any

import numpy as np

from keras_vit.evaluation.features import feature_network, features
from keras_vit.training import config as configs
from keras_vit.training.image_sets import check_single, open_parts
from keras_vit.training.runs import check_classes

# The images that are looked up, and those that are classified.
PARTS = ("train", "test")


def neighbor_scores(
    reference: tuple[np.ndarray, np.ndarray],
    queries: np.ndarray,
    classes: int,
    neighbors: int = 20,
    temperature: float = 0.07,
) -> np.ndarray:
    """Return the scores of each class by weighted votes of the nearest neighbors.

    The neighbors are those with the largest cosine similarity. Each votes for its class
    with the weight `exp(similarity / temperature)`.

    Args:
        reference: features `(n, d)` and labels `(n,)` of the images to look up.
        queries: features `(m, d)`.
        classes: int, number of classes.
        neighbors: int, number of neighbors; all images if there are fewer.
        temperature: float, above 0: the smaller, the more the nearest images count.

    Returns:
        `(m, classes)`, each row sums to 1.

    Raises:
        ValueError: `neighbors` or `temperature` is not positive.

    Reference: DINO (arXiv:2104.14294) section 4.1; arXiv:1805.01978 section 3.4.
    """
    from sklearn.neighbors import KNeighborsClassifier

    if neighbors < 1 or not temperature > 0:
        raise ValueError(
            "neighbors must be 1 or more and temperature more than 0; received "
            f"neighbors={neighbors}, temperature={temperature}."
        )
    model = KNeighborsClassifier(
        min(neighbors, len(reference[1])),
        # A cosine distance of 0 has the weight 1: larger weights might overflow.
        weights=lambda distances: np.exp(-distances / temperature),
        metric="cosine",
        algorithm="brute",
    ).fit(*reference)
    scores = np.zeros((len(queries), classes))
    scores[:, model.classes_] = model.predict_proba(queries)
    return scores


def nearest_neighbors(
    config: configs.Config,
    neighbors: int = 20,
    block: int | None = None,
    cache: str | None = None,
) -> dict[str, Any]:
    """Measure the accuracy of nearest-neighbor classification.

    Args:
        config: config with the model or the checkpoint, `data.train`, whose images are
            looked up, and `data.test`.
        neighbors: int, number of neighbors.
        block: None, or the number of the block whose features are used.
        cache: None, or a directory of computed features.

    Returns:
        Dict with `accuracy`, `neighbors`, and the numbers of images `reference` and
        `test`.

    Raises:
        ValueError: a data set is missing, the data sets differ in their classes, or there
            is no such block.
    """
    data = config.data
    if not (data.train and data.test):
        raise ValueError(
            "Nearest neighbors need data.train, whose images are looked up, and "
            "data.test: --set data.train=tfds:NAME:SPLIT, and likewise data.test."
        )
    check_single(data)
    sources = open_parts(data, PARTS)
    check_classes(sources)
    model = feature_network(config, block)
    parts = {part: features(model, sources[part], config, cache) for part in sources}
    queries, labels = parts["test"]
    classes = sources["train"].num_classes
    scores = neighbor_scores(parts["train"], queries, classes, neighbors)
    return {
        "accuracy": float(np.mean(scores.argmax(axis=1) == labels)),
        "neighbors": neighbors,
        "reference": len(parts["train"][1]),
        "test": len(labels),
    }
