"""Batches of labeled images for training and evaluation."""

import logging
import os

import keras
import numpy as np

from keras_vit.data import augment
from keras_vit.data.augment import Augmentation
from keras_vit.data.decoding import decode_pixels, reason
from keras_vit.data.host import tensorflow
from keras_vit.data.rand_augment import RandAugment
from keras_vit.data.source import Source
from keras_vit.layers import Preprocessor
from keras_vit.layers.preprocessor import RESIZES

logger = logging.getLogger(__name__)

_BUFFER_BYTES = 2**32

# Constants folded into the seed, so that no two random draws share a seed.
_SHUFFLE, _EXAMPLE, _BATCH = range(3)
_DRAWS = 6
_CROP, _SHIFT, _FLIP, _RAND_AUGMENT, _JITTER, _ERASE = range(_DRAWS)


def training_batches(
    source: Source,
    preprocessor: Preprocessor,
    augmentation: Augmentation,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    epochs: int | None = None,
    num_classes: int | None = None,
    shuffle_buffer: int | None = None,
    unreadable: str = "error",
    cache: bool = False,
):
    """Return an endless stream of batches of augmented images for training.

    The stream depends only on the source, the augmentation, `batch_size`, `seed` and
    `shuffle_buffer`, not on the number of threads. With `first_step=k` it equals the same
    stream from step k on, so that a run can resume. Skipping the earlier steps reads no
    images of a folder, and of a TFDS set at most one epoch of records, without decoding
    them.

    If `shuffle_buffer` holds all examples, every epoch is a new random order of all of
    them. Otherwise each example is drawn from the next `shuffle_buffer` examples in the
    fixed order. Batches may span two epochs: none is partial, and no example is left out.

    Args:
        source: a `Source`.
        preprocessor: the model's `Preprocessor`. The size of the images is its
            `image_size` or the source's `image_shape`. A random crop (`crop_area`)
            replaces its `crop_fraction`.
        augmentation: an `Augmentation`.
        batch_size: int.
        seed: int, the seed of the run.
        first_step: int, the step of the first batch.
        epochs: None for an endless stream, or the number of epochs from step 0. The
            stream then ends with the last whole batch of
            `epochs * source.num_examples` examples.
        num_classes: int, number of classes of the model; None for the source's.
        shuffle_buffer: int, number of examples. None for as many as fit into 4 GiB: all
            examples of a folder, for which the buffer holds file names; for a TFDS set
            it holds encoded images, about 37,000 of ImageNet, whose records are stored
            in random order already.
        unreadable: `"error"` to raise an error for an image that cannot be decoded, with
            its `id` and the reason; `"skip"` to log a warning and repeat the next image
            of the stream instead. Finding the name takes about a second per million
            examples. An epoch without any readable image raises an error.
        cache: bool, whether to keep the encoded images in memory.

    Returns:
        A `tf.data.Dataset` of `(images, labels)`: float32 `(b, h, w, c)`, scaled by
        `preprocessor`, and int32 `(b,)`; with mixup or CutMix (`augmentation.mixes`),
        labels are float32 `(b, num_classes)`.

    Raises:
        ValueError: an argument is out of its range; images have no common size;
            `num_classes` is smaller than the source's.

    During iteration, TensorFlow raises `InvalidArgumentError` for an unreadable image or
    a label that is not below `num_classes`; the error names the images.

    Example:

    >>> import keras_vit
    >>> from keras_vit.data import Augmentation, open_source, training_batches
    >>> batches = training_batches(open_source("digits"),
    ...     keras_vit.layers.Preprocessor(), Augmentation(pad_and_crop=1), 32, seed=0)
    >>> for images, labels in batches.take(1):
    ...     print(images.shape, labels.shape)
    (32, 8, 8, 1) (32,)
    """
    tf = tensorflow()
    classes = _check(source, batch_size, num_classes, unreadable)
    if first_step < 0 or (shuffle_buffer is not None and shuffle_buffer < 1):
        raise ValueError(
            "first_step must be 0 or more and shuffle_buffer 1 or more; received "
            f"{first_step} and {shuffle_buffer}."
        )
    if epochs is not None and first_step > epochs * source.num_examples // batch_size:
        raise ValueError(
            f"Step {first_step} is after the last of {epochs} epochs of "
            f"{source.num_examples} examples in batches of {batch_size}."
        )
    shape = _image_shape(source, preprocessor)
    preprocessor = _of_channels(preprocessor, shape[-1])
    prepare = _training_image(source, preprocessor, augmentation, shape)
    run_seed = tf.constant((seed, 0), "int64")
    example_seed = _fold(run_seed, _EXAMPLE)[0]

    def stream(first):
        return _shuffled(source, seed, first, epochs, shuffle_buffer, cache)

    def image(position, reference):
        content = reference["image"] if cache else source.read(reference["image"])
        return prepare(content, tf.stack([example_seed, position]))

    reader = _Images(source, stream, image, shape, unreadable, fill=True)
    data = reader.batches(first_step * batch_size, batch_size)

    def batch(step, examples):
        examples = reader.checked(examples)
        images, labels = examples["image"], _checked_labels(examples, classes)
        if not augmentation.mixes:
            return images, labels
        labels = tf.one_hot(labels, classes)
        return augment.mix_images(
            images, labels, augmentation, _fold(run_seed, _BATCH, step)
        )

    data = _map(data.enumerate(first_step), batch)
    steps = tf.data.INFINITE_CARDINALITY
    if epochs is not None:
        steps = epochs * source.num_examples // batch_size - first_step
    return _of_length(data, steps, unreadable)


def batch_ids(
    source: Source,
    batch_size: int,
    seed: int,
    step: int,
    shuffle_buffer: int | None = None,
) -> list[str]:
    """Return the ids of the examples in one batch of `training_batches`.

    No image is decoded.

    Args:
        source: as for `training_batches`, and so are `batch_size`, `seed` and
            `shuffle_buffer`.
        batch_size: int.
        seed: int.
        step: int, index of the batch.
        shuffle_buffer: int or None.

    Returns:
        List of `batch_size` ids, including those of skipped images.

    Example:

    >>> from keras_vit.data import batch_ids, open_source
    >>> len(batch_ids(open_source("digits"), batch_size=32, seed=0, step=100))
    32
    """
    first = step * batch_size
    references = _shuffled(source, seed, first, None, shuffle_buffer, cache=False)
    references = references.filter(lambda position, end, reference: ~end)
    return [_text(reference["id"]) for *_, reference in references.take(batch_size)]


def evaluation_batches(
    source: Source,
    preprocessor: Preprocessor,
    batch_size: int,
    num_classes: int | None = None,
    unreadable: str = "error",
):
    """Return batches that hold every image of a source exactly once, in its order.

    The last batch holds the remaining images without padding: Keras averages a loss over
    the whole batch regardless of the weights, so with padding `model.evaluate` would
    report a loss that is too small.

    A `keras.distribution` needs batches that can be divided by its number of devices. The
    last batch is then padded with black images of label 0 and weight 0, and the weights
    of all other images are scaled up to compensate. Compile with `weighted_metrics=`
    instead of `metrics=` in this case.

    Args:
        source: a `Source`.
        preprocessor: the model's `Preprocessor`.
        batch_size: int.
        num_classes: int, number of classes of the model; None for the source's.
        unreadable: `"error"`, or `"skip"` to log images that cannot be decoded and leave
            them out.

    Returns:
        A `tf.data.Dataset` of `(images, labels, weights)`: float32 `(b, h, w, c)`, int32
        `(b,)`, and float32 `(b,)`, which is 1 except under a distribution.

    Raises:
        ValueError: as for `training_batches`; or `unreadable="skip"` is used under a
            distribution, where the weights depend on the number of images.

    Example:

    >>> import keras_vit
    >>> from keras_vit.data import evaluation_batches, open_source
    >>> batches = evaluation_batches(
    ...     open_source("digits:test"), keras_vit.layers.Preprocessor(), 100)
    >>> [int(weights.numpy().sum()) for _, _, weights in batches]
    [100, 100, 100, 60]
    """
    tf = tensorflow()
    classes = _check(source, batch_size, num_classes, unreadable)
    shape = _image_shape(source, preprocessor)
    preprocessor = _of_channels(preprocessor, shape[-1])

    def stream(first):
        return _epoch(source.references(), source.num_examples, 0, first)

    def image(position, reference):
        content = source.read(reference["image"])
        pixels = decode_pixels(content, source.channels, exif=source.exif)
        return tf.ensure_shape(preprocessor(pixels), shape)

    devices = _devices()
    if devices > 1 and unreadable == "skip":
        raise ValueError(
            f"unreadable='skip' is not possible with the {devices} devices of a "
            "keras.distribution: remove the images that cannot be read, or evaluate on "
            "one device."
        )
    reader = _Images(source, stream, image, shape, unreadable, fill=False)
    number = source.num_examples
    padding = -(number % batch_size) % devices
    weight = (number + padding) / number

    def batch(examples):
        images, labels = examples["image"], _checked_labels(examples, classes)
        weights = tf.fill(tf.shape(labels), tf.constant(weight, "float32"))
        if not padding:
            return images, labels, weights
        missing = -tf.shape(labels)[0] % devices
        parts = (images, labels, weights)
        return tuple(
            tf.pad(part, [[0, missing]] + [[0, 0]] * (len(part.shape) - 1))
            for part in parts
        )

    data = reader.batches(0, batch_size).map(batch)
    return _of_length(data, -(-number // batch_size), unreadable)


def _devices():
    """Return the number of devices among which Keras's JAX trainer splits a batch."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1
    mesh = distribution.device_mesh
    return mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]


def _check(source, batch_size, num_classes, unreadable):
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive int; received {batch_size!r}.")
    if unreadable not in ("error", "skip"):
        raise ValueError(f"unreadable must be 'error' or 'skip'; is {unreadable!r}.")
    if num_classes is not None and num_classes < source.num_classes:
        raise ValueError(
            f"{source.name!r} has {source.num_classes} classes, the model {num_classes}: "
            "labels would be out of range."
        )
    return num_classes or source.num_classes


def _image_shape(source, preprocessor):
    if preprocessor.image_size is not None:
        return (*preprocessor.image_size, source.channels)
    if source.image_shape is None:
        raise ValueError(
            f"The images of {source.name!r} differ in size, and the preprocessor has no "
            "image_size: use preprocessor.with_image_size((height, width))."
        )
    return source.image_shape


def _of_channels(preprocessor, channels):
    """Return the preprocessor for `channels` unless its mean or std fix the channels."""
    if isinstance(preprocessor.mean, list) or isinstance(preprocessor.std, list):
        return preprocessor  # A different number of channels raises an error later.
    return preprocessor.with_channels(channels)


def _map(dataset, function):
    """Map a function over a dataset in parallel and in order."""
    tf = tensorflow()
    # AutoGraph is not needed here, and its conversion takes seconds.
    function = tf.autograph.experimental.do_not_convert(function)
    return dataset.map(function, tf.data.AUTOTUNE, deterministic=True)


def _of_length(data, steps, unreadable):
    tf = tensorflow()
    # A known length lets Keras show progress and avoids its warning at the end of data.
    # If images are skipped, the length is unknown.
    if unreadable == "error" or steps == tf.data.INFINITE_CARDINALITY:
        data = data.apply(tf.data.experimental.assert_cardinality(steps))
    return data.prefetch(tf.data.AUTOTUNE)


def _fold(seed, *values):
    tf = tensorflow()
    for value in values:
        seed = tf.random.fold_in(seed, tf.cast(value, "int64"))
    return seed


def _shuffled(source, seed, first, epochs, shuffle_buffer, cache):
    """Return shuffled references of all epochs from position `first`; see `_epoch`."""
    tf = tensorflow()
    count = source.num_examples
    references = source.examples().cache() if cache else source.references()
    buffer = shuffle_buffer or max(1, _BUFFER_BYTES // source.reference_bytes)
    shuffle_seed = _fold(tf.constant((seed, 0), "int64"), _SHUFFLE)

    def epoch(number):
        epoch_seed = _fold(shuffle_seed, number)
        shuffled = _shuffle(references, min(buffer, count), epoch_seed)
        return _epoch(shuffled, count, number, tf.maximum(first - number * count, 0))

    end = np.iinfo("int64").max // count if epochs is None else epochs
    return tf.data.Dataset.range(first // count, end).flat_map(epoch)


def _shuffle(dataset, buffer, seed):
    tf = tensorflow()
    # `Dataset.shuffle` would mix in TensorFlow's global seed, which Keras sets.
    specifications = tf.nest.flatten(dataset.element_spec)
    shuffled = tf.raw_ops.ShuffleDataset(
        input_dataset=tf.data.experimental.to_variant(dataset),
        buffer_size=buffer,
        seed=seed[0],
        seed2=seed[1],
        reshuffle_each_iteration=False,
        output_types=[s.dtype for s in specifications],
        output_shapes=[s.shape for s in specifications],
    )
    return tf.data.experimental.from_variant(shuffled, dataset.element_spec)


def _epoch(references, count, number, skipped):
    """Return elements `(stream position, is_end, reference)`; the last is an end."""
    tf = tensorflow()
    first = number * count + skipped
    # A file that cannot be opened fails again at every retry of `ignore_errors`. Each
    # retry consumes a position, so the finite range of positions bounds the retries.
    positions = tf.data.Dataset.range(first, (number + 1) * count)
    no_end = tf.data.Dataset.from_tensors(False).repeat()
    end = (
        tf.cast((number + 1) * count, "int64"),
        True,
        {n: tf.zeros(s.shape, s.dtype) for n, s in references.element_spec.items()},
    )
    data = tf.data.Dataset.zip(positions, no_end, references.skip(skipped))
    return data.concatenate(tf.data.Dataset.from_tensors(end))


def _with_gap(expected, example):
    """Return the next expected position, and the example with the gap before it."""
    tf = tensorflow()
    position = example["position"]
    missing = position - expected
    expected = tf.where(example["end"], expected, position + 1)
    return expected, {**example, "missing": missing}


class _Images:
    """Decoded images of a stream; unreadable ones are reported and skipped or raised.

    tf.data can drop an element that fails, but not identify it. Gaps in the positions
    reveal dropped elements, which are then read again to find their ids and errors.
    """

    def __init__(self, source, stream, image, shape, unreadable, fill):
        self.source = source
        self.stream = stream  # Function that returns the references from a position on.
        self.image = image
        self.shape = shape
        self.skip = unreadable == "skip"
        # Whether the next image replaces a skipped one, which keeps the positions of all
        # other images unchanged.
        self.fill = fill
        self.skipped: set[str] = set()

    def batches(self, first, batch_size):
        """Return a dataset of dicts: `image`, `label`, `id`, and `missing` if filling."""
        tf = tensorflow()

        def decode(position, end, reference):
            image = tf.cond(
                end, lambda: tf.zeros(self.shape), lambda: self.image(position, reference)
            )
            return {**reference, "image": image, "position": position, "end": end}

        data = _map(self.stream(first), decode).ignore_errors()
        if self.skip:
            data = data.scan(tf.constant(first, "int64"), _with_gap)
        names = ("id", "image", "label")
        if self.skip and self.fill:
            data = data.flat_map(lambda example: self._in_place(example, batch_size))
        elif self.skip:
            data = data.filter(self._shown)
            data = data.map(lambda example: {n: example[n] for n in names})
        else:
            # Detect gaps without `scan`, which is slower: if nothing is missing, the
            # index of an element follows from its position and the end markers before it.
            marks = first // self.source.num_examples

            def nothing_missing(number, example):
                position = example["position"]
                place = position + position // self.source.num_examples - first - marks
                missing = place - tf.cast(example["end"], "int64") - number
                return self._shown({**example, "missing": missing})

            data = data.enumerate().filter(nothing_missing)
            # Drop the other entries, since batching them costs as much as a flip.
            data = data.map(lambda _, example: {n: example[n] for n in names})
        return data.batch(batch_size, drop_remainder=self.fill)

    def _shown(self, example):
        """Return False for an end marker; report the gap before the example."""
        tf = tensorflow()
        reported = tf.cond(
            example["missing"] > 0,
            lambda: self._reported(example),
            lambda: tf.constant(True),
        )
        return reported & ~example["end"]

    def _in_place(self, example, batch_size):
        """Repeat an example to fill the gap before it; drop an end marker."""
        tf = tensorflow()
        missing = example["missing"]
        # A gap before an end marker is reported and filled at the example after it.
        times = tf.where(example["end"], tf.constant(0, "int64"), 1 + missing)
        # If a whole epoch is missing, emit a full batch so that the error is raised.
        hopeless = missing >= self.source.num_examples
        times = tf.where(hopeless, tf.constant(batch_size, "int64"), times)
        return tf.data.Dataset.from_tensors(example).repeat(times)

    def checked(self, examples):
        """Return the batch after reporting the images skipped before its images."""
        tf = tensorflow()
        if not self.skip:
            return examples
        none_missing = tf.reduce_all(examples["missing"] == 0)
        reported = tf.cond(
            none_missing, lambda: tf.constant(True), lambda: self._reported(examples)
        )
        with tf.control_dependencies([reported]):
            return {name: tf.identity(values) for name, values in examples.items()}

    def _reported(self, examples):
        tf = tensorflow()
        arguments = [
            tf.reshape(examples[name], (-1,)) for name in ("position", "missing")
        ]
        return tf.ensure_shape(tf.numpy_function(self._report, arguments, tf.bool), ())

    def _report(self, positions, missing):
        # An image that fills a gap appears several times; report its gap once.
        for position, gap in dict(zip(positions, missing, strict=True)).items():
            if gap:
                self._report_gap(position - gap, gap)
        return np.True_

    def _report_gap(self, first, missing):
        if lost := self.source.lost():
            raise ValueError(f"{self.source.name}: {lost}")
        problems = self._problems(first, missing)
        if not self.skip or missing >= self.source.num_examples:
            name, reason = next(iter(problems.items()))
            remedy = "Remove or replace it, or skip such images (unreadable='skip')."
            if self.skip:
                remedy = "No other image can be read either: replace them."
            raise ValueError(
                f"{self.source.name}: {name} cannot be read: {reason} {remedy}"
            )
        for name, reason in problems.items():
            if name not in self.skipped:
                self.skipped.add(name)
                logger.warning(
                    "%s: skipped %s, which cannot be read: %s (%d so far)",
                    self.source.name,
                    name,
                    reason,
                    len(self.skipped),
                )

    def _problems(self, first, missing):
        tf = tensorflow()
        problems, found = {}, 0
        references = self.stream(int(first)).filter(lambda _, end, reference: ~end)
        try:
            for position, _, reference in references.take(missing):
                if position >= first + missing:
                    break
                found += 1
                name = _text(reference["id"])
                try:
                    self.image(position, reference)
                    problems[name] = "an error that did not come back."
                except tf.errors.OpError as error:
                    problems[name] = reason(error)
        except tf.errors.OpError as error:
            self._raise_damaged(missing - found, reason(error))
        if found < missing:
            self._raise_damaged(missing - found, "they are missing.")
        return problems

    def _raise_damaged(self, examples, reason):
        """Raise an error that names the damaged file of a set that packs its images."""
        damaged = self.source.damaged()
        if damaged is None:
            damaged = f"a file with {examples} examples cannot be read: {reason}"
        raise ValueError(f"{self.source.name}: {damaged}")


def _text(identifier):
    return os.fsdecode(identifier.numpy())


def _checked_labels(examples, classes):
    tf = tensorflow()
    labels = examples["label"]
    good = (labels >= 0) & (labels < classes)
    wrong = tf.boolean_mask(examples["id"], ~good)
    tf.debugging.Assert(
        tf.reduce_all(good),
        [
            f"Labels must be 0 to {classes - 1}. Received",
            tf.boolean_mask(labels, ~good),
            "for",
            wrong,
        ],
    )
    return tf.cast(labels, "int32")


def _training_image(source, preprocessor, augmentation, shape):
    """Return a function from an encoded image and a seed to an augmented image."""
    tf = tensorflow()
    rand_augment = augmentation.randaugment and RandAugment.parse(
        augmentation.randaugment
    )
    if (rand_augment or augmentation.color_jitter) and shape[-1] != 3:
        raise ValueError(
            f"RandAugment and color_jitter need images with 3 channels; {source.name!r} "
            f"has {shape[-1]}."
        )
    # A random crop replaces that of the preprocessor but uses its resize method.
    crops = augmentation.crop_area is not None
    method, antialias = RESIZES[preprocessor.resize]
    pixels_only = crops or augmentation.changes_pixels
    fit = preprocessor
    if pixels_only:
        config = {**preprocessor.get_config(), "mean": 0.0, "std": 1.0}
        fit = Preprocessor.from_config(config).with_channels(shape[-1])
    scale = preprocessor.with_image_size(None)
    mean = np.broadcast_to(preprocessor.mean, shape[-1:])
    fill = tuple(np.round(mean).tolist())

    def prepare(content, seed):
        # Draw all seeds in one operation, which is faster than a `fold_in` for each.
        seeds = tf.random.stateless_uniform((_DRAWS, 2), seed, None, None, tf.int64)

        def window(size):
            return augment.crop_window(
                size, augmentation.crop_area, augmentation.crop_aspect, seeds[_CROP]
            )

        if crops:
            image = decode_pixels(content, source.channels, window, source.exif)
            # This equals the preprocessor, without its float32 copy of the large image.
            image = tf.image.resize(image, shape[:2], method, antialias=antialias)
            if method == "bicubic":
                image = tf.clip_by_value(image, 0.0, 255.0)
        else:
            image = fit(decode_pixels(content, source.channels, exif=source.exif))
        image = tf.ensure_shape(image, shape)
        if augmentation.pad_and_crop:
            image = augment.shifted(image, augmentation.pad_and_crop, seeds[_SHIFT])
        if augmentation.horizontal_flip:
            image = tf.image.stateless_random_flip_left_right(image, seeds[_FLIP])
        if rand_augment or augmentation.color_jitter:
            image = tf.cast(tf.round(tf.clip_by_value(image, 0.0, 255.0)), "uint8")
        if rand_augment:
            image = rand_augment(image, seeds[_RAND_AUGMENT], fill)
        if augmentation.color_jitter:
            image = augment.jittered(image, augmentation.color_jitter, seeds[_JITTER])
        if pixels_only:
            image = scale(image)
        if augmentation.random_erasing:
            image = augment.erased(image, augmentation.random_erasing, seeds[_ERASE])
        return image

    return prepare
