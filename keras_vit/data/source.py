"""Type of all data sources: labeled images in a fixed order."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from keras_vit.data.host import tensorflow


@dataclasses.dataclass(frozen=True)
class Source:
    """Labeled images in a fixed order, not yet decoded. `open_source` returns one.

    Args:
        name: name by which the source was opened.
        num_examples: int, the number of images.
        num_classes: int; labels are 0 to `num_classes - 1`. For regression, the number
            of values to predict.
        class_names: the names of the classes in the order of the labels. For regression,
            the names of the values.
        image_shape: `(height, width, channels)`, or None if images differ in size.
        channels: int, the number of channels that images are decoded to.
        references: function of no arguments that returns a finite `tf.data.Dataset` of
            all examples, always in the same order and as small as possible: dicts with
            `id`, a unique string, `label`, and `image`, the argument of `read`. A label
            is an int64, or for `labels` other than `"single"` a float32 vector.
        reference_bytes: int, approximate memory of a reference.
        read: function used in `tf.data.Dataset.map`, from a reference's `image` to an
            encoded image (a string tensor) or to pixels 0 to 255.
        encoded: bool, whether `read` returns the bytes of image files.
        exif: bool, whether to apply the EXIF orientation of images.
        listing: function of no arguments that lists the contents of the source in order:
            tuples of a unique name (an example's id, or a file with many examples), the
            label (0 for such a file) and a text that changes with the contents.
            None if unknown.
        lost: function of no arguments that returns a sentence naming a missing file or
            folder of the source, or None.
        damaged: function of no arguments that reads all files with many examples and
            returns a sentence naming a damaged one, or None.
        class_counts: the number of images of each class in the order of the labels, or
            None if counting would require reading the images.
        labels: `"single"`, one class per image; `"multi"`, any number of classes, with
            labels of zeros and ones; or `"regression"`, values to predict.
        left_out: text that counts the files that are not in the source; empty for none.
        table: the references as arrays with one row per example; None if they are not
            in memory.

    Example:

    >>> from keras_vit.data import open_source
    >>> source = open_source("digits:test")
    >>> source.num_examples, source.num_classes, source.image_shape
    (360, 10, (8, 8, 1))
    """

    name: str
    num_examples: int
    num_classes: int
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int] | None
    channels: int
    references: Callable[[], Any]
    reference_bytes: int
    read: Callable[[Any], Any]
    encoded: bool = False
    exif: bool = True
    listing: Callable[[], list[tuple[str, Any, str]]] | None = None
    lost: Callable[[], str | None] = lambda: None
    damaged: Callable[[], str | None] = lambda: None
    class_counts: tuple[int, ...] | None = None
    labels: str = "single"
    left_out: str = ""
    table: dict[str, np.ndarray] | None = dataclasses.field(
        default=None, repr=False, compare=False
    )

    def examples(self):
        """Return all examples once, in an order that never changes, not decoded.

        Returns:
            A finite `tf.data.Dataset` of dicts: `image`, the bytes of an image file
            (a string) or an array `(h, w, c)` of pixel values 0 to 255; `label`, int64;
            `id`, a string: a path relative to the folder, TFDS's `tfds_id`, or a number.

        Example:

        >>> from keras_vit.data import open_source
        >>> for example in open_source("digits:test").examples().take(1):
        ...     print(example["id"].numpy(), example["image"].shape)
        b'digits-1496' (8, 8, 1)
        """
        tf = tensorflow()

        def read(reference):
            return {**reference, "image": self.read(reference["image"])}

        return self.references().map(read, tf.data.AUTOTUNE, deterministic=True)

    def with_channels(self, channels: int | None) -> "Source":
        """Return the source with image files decoded to a model's number of channels.

        Args:
            channels: int; None, which models of any number have, changes nothing.

        Returns:
            A `Source`; the same one if its images are arrays.
        """
        if not self.encoded or channels is None:
            return self
        shape = self.image_shape and (*self.image_shape[:2], channels)
        return dataclasses.replace(self, channels=channels, image_shape=shape)
