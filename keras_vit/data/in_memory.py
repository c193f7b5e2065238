"""Images that are passed from Python: arrays, tf.data and Keras datasets."""

import zlib
from typing import Any

import numpy as np

from keras_vit.data.host import tensorflow
from keras_vit.data.source import Source
from keras_vit.data.tables import counts

# Largest size of a set that is copied to memory, in bytes.
MOST_BYTES = 8 * 2**30


def dataset_source(name: str, dataset: Any, class_names: Any = None) -> Source:
    """Copy labeled images to memory and return them as a `Source`.

    The images are sorted by their contents, so a dataset that shuffles gives the same
    source every time.

    Args:
        name: name of the source.
        dataset: a finite `tf.data.Dataset`, a `keras.utils.PyDataset` or another iterable
            of `(images, labels)`, batched or not, or two arrays. Images have one size and
            pixel values 0 to 255. Labels are ints or one-hot for one class per image,
            zeros and ones for several classes, or floats to predict.
        class_names: names of the classes; None for those of the dataset, or numbers.

    Raises:
        ValueError: the dataset is empty, its images differ in size, it does not have
            pixel values 0 to 255, or it has more classes than `class_names`.
    """
    images, labels = _arrays(name, dataset)
    if class_names is None:
        class_names = getattr(dataset, "class_names", None)
    kind, labels, number = _labels(name, labels, class_names)
    names = tuple(map(str, class_names or range(number)))
    if len(names) != number:
        raise ValueError(
            f"{name} has labels of {number} classes, but {len(names)} class names: "
            f"{', '.join(names[:5])}."
        )
    pairs = zip(images, labels, strict=True)
    sums = [
        zlib.crc32(np.asarray(y).tobytes(), zlib.crc32(x.tobytes())) for x, y in pairs
    ]
    # Of 80,000 images, two probably have the same sum; another one then orders them.
    others = [zlib.adler32(image.tobytes()) for image in images]
    order = np.lexsort((others, sums))
    images, labels = images[order], labels[order]
    identifiers = [f"{sums[i]:08x}-{n}" for n, i in enumerate(order)]
    table = {"image": images, "label": labels, "id": np.array(identifiers)}
    return Source(
        name,
        num_examples=len(labels),
        num_classes=number,
        class_names=names,
        image_shape=images.shape[1:],
        channels=images.shape[-1],
        references=lambda: tensorflow().data.Dataset.from_tensor_slices(table),
        reference_bytes=images[0].nbytes,
        read=lambda image: image,
        class_counts=counts(labels, number, kind),
        table=table,
        listing=lambda: [
            (identifier, label, "")
            for identifier, label in zip(identifiers, labels.tolist(), strict=True)
        ],
        labels=kind,
    )


def _arrays(name, dataset):
    """Return the images and the labels of a dataset as two arrays."""
    if isinstance(dataset, tuple | list) and len(dataset) == 2:
        images, labels = map(np.asarray, dataset)
        if images.ndim != 4 or len(images) != len(labels) or not len(images):
            raise ValueError(
                f"{name} must have images (n, h, w, c) and n labels; received "
                f"{images.shape} and {labels.shape}."
            )
    else:
        images, labels = _concatenated(name, dataset)
    if images.shape[-1] not in (1, 3):
        raise ValueError(
            f"{name} must have images with 1 or 3 channels, (n, h, w, c); received "
            f"{images.shape}."
        )
    if images.dtype != np.uint8:
        images = images.astype("float32")
        low, high = images.min(), images.max()
        # Written so that NaN is refused.
        if not (low >= 0 and high <= 255) or 0 < high <= 1:
            raise ValueError(
                f"{name} must have pixel values 0 to 255; received {low:g} to {high:g}. "
                "The model's preprocessor scales them: pass the images unscaled."
            )
    return images, labels


def _concatenated(name, dataset):
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    total = 0
    steps = len(dataset) if hasattr(dataset, "__getitem__") else None
    elements = dataset if steps is None else (dataset[i] for i in range(steps))
    for element in elements:
        if not isinstance(element, tuple | list) or len(element) < 2:
            raise ValueError(f"{name} must yield pairs of images and labels.")
        images, labels = map(np.asarray, element[:2])
        if images.ndim == 3:
            images, labels = images[None], labels[None]
        if parts and images.shape[1:] != parts[0][0].shape[1:]:
            raise ValueError(
                f"The images of {name} differ in size: {parts[0][0].shape[1:]} and "
                f"{images.shape[1:]}. Resize them, or save them in one folder for each "
                "class and pass the folder."
            )
        total += images.nbytes
        if total > MOST_BYTES:
            raise ValueError(
                f"{name} has more than {MOST_BYTES / 2**30:.0f} GiB of pixels, or it "
                "repeats endlessly: save the images in one folder for each class and "
                "pass the folder."
            )
        parts.append((images, labels))
    if not parts:
        raise ValueError(f"{name} has no images.")
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def _labels(name, labels, class_names):
    """Return the kind of the labels, the labels as a `Source` has them, and their number.

    A column of ints is one class per image.
    """
    if labels.ndim == 2 and labels.shape[1] == 1 and labels.dtype.kind in "iub":
        labels = labels[:, 0]
    if labels.ndim == 1 and labels.dtype.kind in "iub":
        labels = labels.astype("int64")
        if labels.min() < 0:
            raise ValueError(f"{name} has the label {labels.min()}; labels start at 0.")
        number, largest = len(class_names or ()), int(labels.max())
        if number and largest >= number:
            raise ValueError(
                f"{name} has the label {largest}, but there are {number} classes, with "
                f"the labels 0 to {number - 1}: pass class_names with a name for every "
                "class, or leave the images of other classes out."
            )
        return "single", labels, number or largest + 1
    if labels.ndim not in (1, 2) or labels.dtype.kind not in "iubf":
        raise ValueError(
            f"{name} must have numbers as labels, (n,) or (n, classes); received "
            f"{labels.dtype} {labels.shape}."
        )
    labels = labels.astype("float32").reshape(len(labels), -1)
    if not np.isfinite(labels).all():
        raise ValueError(f"{name} has labels that are not finite.")
    if labels.shape[1] > 1 and np.isin(labels, (0, 1)).all():
        if (labels.sum(axis=1) == 1).all():
            return "single", labels.argmax(axis=1), labels.shape[1]
        return "multi", labels, labels.shape[1]
    return "regression", labels, labels.shape[1]
