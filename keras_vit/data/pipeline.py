"""Batches of labeled images for training and evaluation."""

import functools

import keras
import numpy as np

from keras_vit.data.augment import Augmentation, mix_images
from keras_vit.data.decoding import decode_pixels
from keras_vit.data.host import tensorflow
from keras_vit.data.host_share import Rows, Turns, host_share
from keras_vit.data.multi_crop import MultiCrop, crops_of_image
from keras_vit.data.readable import ReadableImages, name_of, parallel_map, unconverted
from keras_vit.data.sampling import balanced, check_repeats, check_sampling, repeated
from keras_vit.data.source import Source
from keras_vit.data.training_image import training_image
from keras_vit.layers import Preprocessor

_BUFFER_BYTES = 2**32

# Constants folded into the seed, so that no two random draws share a seed.
_SHUFFLE, _EXAMPLE, _BATCH, _SAMPLE = range(4)


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
    sampling: str | None = None,
    repeats: int = 1,
    crops: MultiCrop | None = None,
):
    """Return an endless stream of batches of augmented images for training.

    The stream depends only on the source, the augmentation, `batch_size`, `seed`,
    `shuffle_buffer`, `sampling` and `repeats`, not on the number of threads. With
    `first_step=k` it equals the same stream from step k on, so that a run can resume; no
    image of the earlier steps is decoded, and of a TFDS set at most one epoch of records
    is read.

    If `shuffle_buffer` holds all examples, every epoch is a new random order of all of
    them. Otherwise each example is drawn from the next `shuffle_buffer` examples in the
    fixed order. Batches may span two epochs: none is partial, and no example is left out.

    Args:
        source: a `Source`.
        preprocessor: the model's `Preprocessor`. Its `image_size`, or else the source's
            `image_shape`, is the size of the images. `crop_area` replaces its crop.
        augmentation: an `Augmentation`.
        batch_size: int.
        seed: int, the seed of the run.
        first_step: int, the step of the first batch.
        epochs: None for an endless stream, or the number of epochs, counted from step 0.
        num_classes: int, number of classes of the model; None for the source's.
        shuffle_buffer: int, number of examples. None for as many as fit into 4 GiB: all
            file names of a folder, or about 37,000 encoded images of ImageNet in TFDS,
            whose records are stored in random order already.
        unreadable: `"error"` to raise an error for an image that cannot be decoded, with
            its `id` and the reason; `"skip"` to log a warning and repeat the next image
            of the stream instead. An epoch without any readable image raises an error.
        cache: bool, whether to keep the encoded images in memory.
        sampling: None to draw every example once in an epoch, or `"balanced"` to draw
            equally many examples of every class. An epoch then has the same length,
            repeats examples of small classes and leaves out examples of large classes;
            which ones differs between epochs. It requires one class per image, and a
            folder, a table or arrays.
        repeats: int, number of times that a batch has each of its images, with different
            augmentations (repeated augmentation, 3 in DeiT). An epoch has as many images
            as before, and so only one `repeats`-th of all examples.
        crops: None, or a `MultiCrop` for several crops of every image.

    Returns:
        A `tf.data.Dataset` of `(images, labels)`: float32 `(b, h, w, c)`, scaled by
        `preprocessor`, and int32 `(b,)`; with mixup or CutMix (`augmentation.mixes`) and
        for multi-label and regression sources, labels are float32 `(b, num_classes)`.
        With `crops`, images are a dict of `global_crops` `(b, 2, h, w, c)` and
        `local_crops` `(b, n, h', w', c)`.

    Raises:
        ValueError: an argument is out of its range, or images have no common size.
        tensorflow.errors.InvalidArgumentError: during iteration: an image is unreadable,
            or a label is not below `num_classes`; the error names the images.

    Example:

    >>> import keras_vit
    >>> from keras_vit.data import Augmentation, open_source, training_batches
    >>> batches = training_batches(open_source("digits"),
    ...     keras_vit.layers.Preprocessor(), Augmentation(pad_and_crop=1), 32, seed=0)
    >>> batches.element_spec[0].shape
    TensorShape([32, 8, 8, 1])
    """
    tf = tensorflow()
    classes = _check(source, batch_size, num_classes, unreadable)
    check_sampling(sampling, source)
    check_repeats(repeats, batch_size)
    steps = _steps_left(source, batch_size, first_step, epochs)
    run_seed = tf.constant((seed, 0), "int64")
    shape, image = _augmented(source, preprocessor, augmentation, run_seed, cache, crops)
    whole, _ = _fitted(preprocessor, source)
    stream = functools.partial(
        _shuffled,
        source,
        seed,
        epochs=epochs,
        buffer=shuffle_buffer,
        cache=cache,
        sampling=sampling,
        repeats=(repeats, batch_size),
    )
    rows = _rows(batch_size, augmentation, unreadable)
    reader = ReadableImages(
        source, stream, image, shape, unreadable, fill=True, wanted=rows and rows.wanted
    )

    def batch(step, examples):
        images, labels = examples["image"], _checked_labels(examples, classes)
        if crops is not None:
            images = crops.split(images, whole)
        if not augmentation.mixes:
            return images, labels
        if source.labels == "single":
            labels = tf.one_hot(labels, classes)
        batch_seed = _fold(run_seed, _BATCH, step)
        mixed = mix_images(images, labels, augmentation, batch_seed)
        return mixed if rows is None else tuple(map(rows.own, mixed))

    size = batch_size if rows is None else rows.count
    data = reader.batches(first_step * batch_size, size).enumerate(first_step)
    batches = parallel_map(data, batch)
    if epochs is not None:  # Some processes may have all of their rows of one more batch.
        batches = batches.take(steps)
    return _of_length(batches, steps, unreadable)


def batch_ids(
    source: Source,
    batch_size: int,
    seed: int,
    step: int,
    shuffle_buffer: int | None = None,
    sampling: str | None = None,
    repeats: int = 1,
) -> list[str]:
    """Return the ids of the examples in one batch of `training_batches`.

    No image is decoded.

    Args:
        source: as for `training_batches`.
        batch_size: as for `training_batches`.
        seed: as for `training_batches`.
        step: int, index of the batch.
        shuffle_buffer: as for `training_batches`.
        sampling: as for `training_batches`.
        repeats: as for `training_batches`.

    Returns:
        List of `batch_size` ids, including those of skipped images.

    Example:

    >>> from keras_vit.data import batch_ids, open_source
    >>> len(batch_ids(open_source("digits"), batch_size=32, seed=0, step=100))
    32
    """
    references = _shuffled(
        source,
        seed,
        step * batch_size,
        buffer=shuffle_buffer,
        sampling=sampling,
        repeats=(repeats, batch_size),
    )
    references = references.filter(lambda position, end, reference: ~end)
    return [name_of(reference) for *_, reference in references.take(batch_size)]


def evaluation_batches(
    source: Source,
    preprocessor: Preprocessor,
    batch_size: int,
    num_classes: int | None = None,
    unreadable: str = "error",
    ids: bool = False,
):
    """Return batches that hold every image of a source exactly once, in its order.

    The last batch holds the remaining images without padding: Keras averages a loss over
    the whole batch regardless of the weights, so with padding `model.evaluate` would
    report a loss that is too small.

    A `keras.distribution` needs batches that can be divided by its number of devices.
    Other batches are then padded with black images of label 0 and weight 0, and the
    weights of all other images are scaled up to compensate. Compile with
    `weighted_metrics=` instead of `metrics=` in this case.

    Args:
        source: a `Source`.
        preprocessor: the model's `Preprocessor`.
        batch_size: int.
        num_classes: int, number of classes of the model; None for the source's.
        unreadable: `"error"`, or `"skip"` to log images that cannot be decoded and leave
            them out.
        ids: bool, whether to return the `id` of each image too.

    Returns:
        A `tf.data.Dataset` of `(images, labels, weights)`: float32 `(b, h, w, c)`, int32
        `(b,)` or float32 `(b, num_classes)`, and float32 `(b,)`, which is 1 except under
        a distribution. With `ids`, the fourth entry is a string `(b,)`, empty for
        padding.

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
    shape, preprocessor = _fitted(preprocessor, source)
    turns = Turns(host_share(), source.num_examples, batch_size, batch_devices())
    _check_skipping(turns.devices, unreadable)

    def stream(first):
        return _repeated(source, first, turns.end)

    def image(position, reference):
        content = source.read(reference["image"])
        pixels = decode_pixels(content, source.channels, exif=source.exif)
        return tf.ensure_shape(preprocessor(pixels), shape)

    wanted = turns.wanted if turns.share.count > 1 else None
    reader = ReadableImages(
        source, stream, image, shape, unreadable, fill=False, wanted=wanted
    )

    def batch(step, examples):
        images, labels = examples["image"], _checked_labels(examples, classes)
        rows = step * turns.size + tf.range(tf.shape(labels, "int64")[0])
        weights = tf.where(turns.is_first(rows), tf.constant(turns.weight), 0.0)
        parts = (images, labels, weights, *([examples["id"]] if ids else []))
        if not turns.padding:
            return parts
        missing = -tf.shape(labels)[0] % turns.multiple
        # Not `tf.pad`, which has no strings.
        return tuple(
            tf.concat([part, tf.zeros([missing, *part.shape[1:]], part.dtype)], axis=0)
            for part in parts
        )

    data = reader.batches(0, turns.size).enumerate().map(unconverted(batch))
    return _of_length(data, -(-turns.images // turns.size), unreadable)


def _augmented(source, preprocessor, augmentation, run_seed, cache, crops):
    """Return the shape of the images, and a function that reads and augments one."""
    tf = tensorflow()
    shape, preprocessor = _fitted(preprocessor, source)
    if crops is None:
        prepare = training_image(source, preprocessor, augmentation, shape)
    else:
        number, prepare = crops_of_image(source, preprocessor, augmentation, shape, crops)
        shape = (number,)
    example_seed = _fold(run_seed, _EXAMPLE)[0]

    def image(position, reference):
        content = reference["image"] if cache else source.read(reference["image"])
        return prepare(content, tf.stack([example_seed, position]))

    return shape, image


def batch_devices() -> int:
    """Return the number of devices among which Keras's JAX trainer splits a batch."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return 1
    mesh = distribution.device_mesh
    return int(mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)])


def _check_skipping(devices, unreadable):
    if devices > 1 and unreadable == "skip":
        raise ValueError(
            f"unreadable='skip' is not possible with the {devices} devices of a "
            "keras.distribution: remove the images that cannot be read, or use one "
            "device."
        )


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


def _steps_left(source, batch_size, first_step, epochs):
    """Return the number of batches from `first_step` on, which may be infinite."""
    if first_step < 0:
        raise ValueError(f"first_step must be 0 or more; received {first_step}.")
    if epochs is None:
        return tensorflow().data.INFINITE_CARDINALITY
    steps = epochs * source.num_examples // batch_size
    if first_step > steps:
        raise ValueError(
            f"Step {first_step} is after the last of {epochs} epochs of "
            f"{source.num_examples} examples in batches of {batch_size}."
        )
    return steps - first_step


def _fitted(preprocessor, source):
    """Return the shape of the images, and the preprocessor for their channels."""
    shape = source.image_shape
    if preprocessor.image_size is not None:
        shape = (*preprocessor.image_size, source.channels)
    if shape is None:
        raise ValueError(
            f"The images of {source.name!r} differ in size, and the preprocessor has no "
            "image_size: use preprocessor.with_image_size((height, width))."
        )
    # Lists fix the number of channels; another number raises an error later.
    if isinstance(preprocessor.mean, list) or isinstance(preprocessor.std, list):
        return shape, preprocessor
    return shape, preprocessor.with_channels(shape[-1])


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


def _shuffled(
    source,
    seed,
    first,
    epochs=None,
    buffer=None,
    cache=False,
    sampling=None,
    repeats=(1, 1),
):
    """Return shuffled references of all epochs from position `first`; see `_epoch`."""
    tf = tensorflow()
    if buffer is not None and buffer < 1:
        raise ValueError(f"shuffle_buffer must be 1 or more; received {buffer}.")
    count = source.num_examples
    references = source.examples().cache() if cache else source.references()
    buffer = buffer or max(1, _BUFFER_BYTES // source.reference_bytes)
    shuffle_seed = _fold(tf.constant((seed, 0), "int64"), _SHUFFLE)

    def epoch(number):
        epoch_seed = _fold(shuffle_seed, number)
        drawn = references
        if sampling is not None:
            drawn = balanced(drawn, source, number, _fold(epoch_seed, _SAMPLE))
        shuffled = _shuffle(drawn, min(buffer, count), epoch_seed)
        if repeats[0] > 1:
            shuffled = repeated(shuffled, *repeats).take(count)
        return _epoch(shuffled, count, number, tf.maximum(first - number * count, 0))

    end = np.iinfo("int64").max // count if epochs is None else epochs
    return tf.data.Dataset.range(first // count, end).flat_map(unconverted(epoch))


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


def _rows(batch_size, augmentation, unreadable):
    """Return the rows of every batch that this process reads, None for all of them."""
    share = host_share()
    if share.count == 1:
        return None
    _check_skipping(batch_devices(), unreadable)
    return Rows(share, batch_size, augmentation.mixes)


def _repeated(source, first, end):
    """Return references in their order from position `first`, repeated up to `end`."""
    count = source.num_examples
    if end <= count:
        return _epoch(source.references(), count, 0, first)
    tf = tensorflow()

    def epoch(number):
        skipped = tf.maximum(first - number * count, 0)
        return _epoch(source.references(), count, number, skipped)

    epochs = tf.data.Dataset.range(first // count, -(-end // count))
    return epochs.flat_map(unconverted(epoch))


def _checked_labels(examples, classes):
    tf = tensorflow()
    labels = examples["label"]
    if labels.dtype.is_floating:  # Multi-label or regression, checked at opening.
        return labels
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
