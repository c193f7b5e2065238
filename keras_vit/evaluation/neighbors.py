"""Near duplicates and unusual images among the features of a set of images."""

import numpy as np


def nearest(features: np.ndarray, neighbors: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the most similar other images of every image.

    Args:
        features: `(n, d)`, for two images or more.
        neighbors: int, number of neighbors; all other images if there are fewer.

    Returns:
        Cosine similarities and image numbers, both `(n, neighbors)`, in descending order
        of similarity.

    Raises:
        ValueError: fewer than two images, or `neighbors` is not positive.
    """
    from sklearn.neighbors import NearestNeighbors

    if len(features) < 2 or neighbors < 1:
        raise ValueError(
            "Neighbors need two images or more, and one neighbor or more; received "
            f"{len(features)} images, neighbors={neighbors}."
        )
    count = min(neighbors, len(features) - 1)
    model = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute")
    # Without an argument, an image is not its own neighbor.
    distances, numbers = model.fit(features).kneighbors()
    return 1 - distances, numbers


def duplicates(features: np.ndarray, threshold: float) -> list[tuple[float, int, int]]:
    """Return all pairs of images that are at least as similar as a threshold.

    Args:
        features: `(n, d)`.
        threshold: float, smallest cosine similarity.

    Returns:
        Tuples of a similarity and two image numbers, the most similar first.
    """
    from sklearn.neighbors import NearestNeighbors

    # Equal images differ by the rounding of float32.
    radius = max(0.0, 1 - threshold) + 1e-6
    model = NearestNeighbors(radius=radius, metric="cosine", algorithm="brute")
    found = zip(*model.fit(features).radius_neighbors(), strict=True)
    rows = [
        (1 - float(distance), first, int(second))
        for first, (distances, others) in enumerate(found)
        for distance, second in zip(distances, others, strict=True)
        if first < second
    ]
    return sorted(rows, key=lambda row: (-row[0], row[1:]))


def outliers(similarities: np.ndarray) -> np.ndarray:
    """Return all image numbers, the ones least similar to their neighbors first.

    Args:
        similarities: `(n, k)`, as returned by `nearest`.
    """
    return np.argsort(similarities.mean(axis=1), kind="stable")


def plane(features: np.ndarray) -> np.ndarray:
    """Place images on a plane so that neighbors stay together, by t-SNE.

    Sets of fewer than 10 images are placed by their first two principal components.

    Args:
        features: `(n, d)`.

    Returns:
        `(n, 2)`, from 0 to 1 along both axes.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.maximum(length, 1e-12)
    if len(unit) < 10:
        placed = PCA(min(2, len(unit))).fit_transform(unit)
    else:
        perplexity = min(30.0, (len(unit) - 1) / 3)
        placed = TSNE(perplexity=perplexity, random_state=0, init="pca").fit_transform(
            unit.astype("float32")
        )
    low, high = placed.min(axis=0), placed.max(axis=0)
    return (placed - low) / np.maximum(high - low, 1e-12)
