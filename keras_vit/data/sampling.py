"""Balanced sampling of training images."""

import numpy as np

from keras_vit.data.host import tensorflow
from keras_vit.data.readable import unconverted
from keras_vit.data.source import Source

# Number of references, or of encoded images if they are cached, that are copied at once.
_CHUNK = 64


def check_sampling(sampling: str | None, source: Source) -> None:
    """Check that the images of a source can be sampled as required.

    Args:
        sampling: None or `"balanced"`.
        source: the training set.

    Raises:
        ValueError: `sampling` has another value, the images do not have one class each,
            or their classes are not in memory.
    """
    if sampling is None:
        return
    if sampling != "balanced":
        raise ValueError(f"sampling must be None or 'balanced'; received {sampling!r}.")
    if source.labels != "single":
        raise ValueError(
            "sampling='balanced' requires one class per image; the labels of "
            f"{source.name!r} are {source.labels!r}. Set it to None."
        )
    if source.table is None:
        raise ValueError(
            "sampling='balanced' requires the class of each image before the images are "
            f"read, which {source.name!r} does not list. Set it to None, or use a folder "
            "or a table."
        )


def check_repeats(repeats: int, batch_size: int) -> None:
    """Check the number of times that a batch has each of its images.

    Args:
        repeats: the number.
        batch_size: number of images in a batch.

    Raises:
        ValueError: it is below 1 or above the batch size.
    """
    if not isinstance(repeats, int) or not 1 <= repeats <= batch_size:
        raise ValueError(
            f"repeats must be an int from 1 to batch_size={batch_size}; received "
            f"{repeats!r}."
        )


def repeated(examples, repeats: int, batch_size: int):
    """Return examples several times each, for repeated augmentation.

    A batch has `batch_size / repeats` different examples, all of them once, then all of
    them again, and so on. Copies of an example are apart, so that mixup and CutMix, which
    mix neighbors, mix different examples. If the quotient is no whole number, it is
    rounded up, and the last copies of some examples are in the next batch.

    Args:
        examples: a `tf.data.Dataset` of nested tensors.
        repeats: number of times that each example occurs.
        batch_size: number of examples in a batch.

    Reference: DeiT (arXiv:2012.12877) and Hoffer et al. (arXiv:1901.09335). In DeiT's
    `RASampler`, the copies of an image go to different devices.
    """
    tf = tensorflow()

    def copies(chunk):
        def copied(values):
            times = [repeats, *[1] * (values.shape.rank - 1)]
            return tf.tile(values, times)

        return tf.nest.map_structure(copied, chunk)

    return examples.batch(-(-batch_size // repeats)).map(unconverted(copies)).unbatch()


def balanced(references, source: Source, epoch, seed):
    """Return the references of one epoch, with equally many examples of every class.

    An epoch has as many examples as the source. Examples of small classes are repeated,
    and examples of large classes are left out; which ones differs between epochs. Within
    a class, the numbers of repetitions differ by at most one.

    Args:
        references: a `tf.data.Dataset` of all examples of the source, in its order.
        source: a source that passes `check_sampling`.
        epoch: int64 tensor, number of the epoch.
        seed: int64 tensor `(2,)`, seed of the epoch.

    Returns:
        A `tf.data.Dataset` of the drawn examples, in the order of the source.
    """
    tf = tensorflow()

    def repeated(chunk, times):
        index = tf.repeat(tf.range(tf.size(times)), times)
        return {name: tf.gather(values, index) for name, values in chunk.items()}

    assert source.table is not None
    times = repeats(source.table["label"], epoch, seed)
    pairs = tf.data.Dataset.zip(references, tf.data.Dataset.from_tensor_slices(times))
    # A data set for each reference, as in `flat_map`, would take minutes for a million.
    return pairs.batch(_CHUNK).map(unconverted(repeated)).unbatch()


def repeats(labels: np.ndarray, epoch, seed):
    """Return the number of times that each example occurs in a balanced epoch.

    Args:
        labels: ints `(n,)`; classes without examples are ignored.
        epoch: int64 tensor, number of the epoch.
        seed: int64 tensor `(2,)`, seed of the epoch.

    Returns:
        int64 tensor `(n,)`, whose sum is `n`.
    """
    tf = tensorflow()
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    total = len(labels)
    # If the number of classes does not divide n, the classes with one example more change
    # between epochs.
    end = (epoch + 1) * total + np.arange(len(sizes))
    draws = end // len(sizes) - (end - total) // len(sizes)
    # Sort the examples by class, and in a random order within each class.
    order = tf.argsort(
        classes + tf.random.stateless_uniform([total], seed, dtype="double")
    )
    rank = np.arange(total) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    draws, sizes = tf.repeat(draws, sizes), np.repeat(sizes, sizes)
    times = draws * (rank + 1) // sizes - draws * rank // sizes
    return tf.scatter_nd(order[:, None], times, [total])
