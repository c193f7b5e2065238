"""Decoding of a stream of images of which some cannot be read."""

import logging
import os

import numpy as np

from keras_vit.data.decoding import reason
from keras_vit.data.host import tensorflow

logger = logging.getLogger(__name__)


def parallel_map(dataset, function):
    """Map a function over a dataset in parallel and in order."""
    tf = tensorflow()
    return dataset.map(unconverted(function), tf.data.AUTOTUNE, deterministic=True)


def unconverted(function):
    """Return a function that AutoGraph leaves alone: its conversion takes seconds."""
    return tensorflow().autograph.experimental.do_not_convert(function)


def _with_gap(expected, example):
    """Return the next expected position, and the example with the gap before it."""
    tf = tensorflow()
    position = example["position"]
    missing = position - expected
    expected = tf.where(example["end"], expected, position + 1)
    return expected, {**example, "missing": missing}


class ReadableImages:
    """Decoded images of a stream; unreadable ones are reported and skipped or raised.

    tf.data can drop an element that fails, but not identify it. Gaps in the positions
    reveal dropped elements, which are then read again to find their ids and errors.
    """

    def __init__(self, source, stream, image, shape, unreadable, fill, wanted=None):
        self.source = source
        self.stream = stream  # Function that returns the references from a position on.
        self.image = image
        self.shape = shape
        self.skip = unreadable == "skip"
        # Whether the next image replaces a skipped one, which keeps the positions of all
        # other images unchanged.
        self.fill = fill
        # Function of a position that tells whether this process reads the image there;
        # None if it reads all of them.
        self.wanted = wanted
        self.skipped: set[str] = set()

    def batches(self, first, batch_size):
        """Return batches from position `first` on: dicts of `id`, `image` and `label`."""
        tf = tensorflow()

        def decode(position, end, reference):
            empty = end if self.wanted is None else end | ~self.wanted(position)
            image = tf.cond(
                empty,
                lambda: tf.zeros(self.shape),
                lambda: self.image(position, reference),
            )
            return {**reference, "image": image, "position": position, "end": end}

        def chosen(example):
            # Not all entries, since batching the others costs as much as a flip.
            return {name: example[name] for name in ("id", "image", "label")}

        data = parallel_map(self.stream(first), decode).ignore_errors()
        if self.skip:
            data = data.scan(tf.constant(first, "int64"), unconverted(_with_gap))
            if self.fill:
                shown = data.flat_map(unconverted(self._in_place))
            else:
                shown = data.filter(unconverted(self._shown))
            shown = shown.map(unconverted(chosen))
        else:
            # Detect gaps without `scan`, which is slower: if nothing is missing, the
            # index of an element follows from its position and the end markers before it.
            marks = first // self.source.num_examples

            def shows(number, example):
                position = example["position"]
                place = position + position // self.source.num_examples - first - marks
                missing = place - tf.cast(example["end"], "int64") - number
                shown = self._shown({**example, "missing": missing})
                return shown if self.wanted is None else shown & self.wanted(position)

            shown = data.enumerate().filter(unconverted(shows))
            # Each stage takes 0.02 ms of processor time for an image.
            shown = shown.map(unconverted(lambda number, example: chosen(example)))
        return shown.batch(batch_size, drop_remainder=self.fill)

    def _in_place(self, example):
        """Repeat an example to fill the gap before it; drop an end marker."""
        # A gap before an end marker is filled by the example after it.
        times = tensorflow().where(self._shown(example), 1 + example["missing"], 0)
        return tensorflow().data.Dataset.from_tensors(example).repeat(times)

    def _shown(self, example):
        """Return False for an end marker; report the gap before the example."""
        tf = tensorflow()

        def reported():
            inputs = (example["position"], example["missing"])
            return tf.ensure_shape(tf.numpy_function(self._report, inputs, tf.bool), ())

        whole = example["missing"] == 0
        return tf.cond(whole, lambda: tf.constant(True), reported) & ~example["end"]

    def _report(self, position, missing):
        if lost := self.source.lost():
            raise ValueError(f"{self.source.name}: {lost}")
        problems = self._problems(position - missing, missing)
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
        return np.True_

    def _problems(self, first, missing):
        tf = tensorflow()
        problems, found = {}, 0
        references = self.stream(int(first)).filter(lambda _, end, reference: ~end)
        try:
            for position, _, reference in references.take(missing):
                if position >= first + missing:
                    break
                found += 1
                name = name_of(reference)
                try:
                    self.image(position, reference)
                    problems[name] = "decoding failed once and succeeded when repeated."
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


def name_of(reference) -> str:
    """Return the id of a reference as text."""
    return os.fsdecode(reference["id"].numpy())
