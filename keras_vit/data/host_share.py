"""The part of every batch that one of several processes reads."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_vit import processes


@dataclasses.dataclass(frozen=True)
class HostShare:
    """The part of every batch that a process reads.

    Attributes:
        index: int, number of the part.
        count: int, number of parts of a batch.
    """

    index: int = 0
    count: int = 1

    def size(self, batch_size: int) -> int:
        """Return the number of images in the part.

        Args:
            batch_size: int, number of images in the whole batch.

        Raises:
            ValueError: the batch cannot be divided.
        """
        if batch_size % self.count:
            raise ValueError(
                f"{self.count} processes cannot share a batch of {batch_size} images "
                f"evenly: set batch_size to a multiple of {self.count}."
            )
        return batch_size // self.count


def host_share() -> HostShare:
    """Return the part of every batch that this process reads.

    It is the whole batch unless a `keras.distribution` spans several processes, with
    `auto_shard_dataset=False`: otherwise Keras takes the part of each process out of the
    whole batches. Processes that hold the same part of the axis `data`, and differ in
    that of `model`, read the same images.
    """
    distribution = keras.distribution.distribution()
    if distribution is None or distribution.auto_shard_dataset:
        return HostShare()
    processes, replicas = distribution.num_processes, distribution.num_model_replicas
    return HostShare(distribution.data_shard_id, min(processes, replicas))


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of every batch of training that a process reads.

    Attributes:
        share: a `HostShare` of several parts.
        batch_size: int, number of images in the whole batch.
        previous: bool, whether to read the row before the first one too, which Mixup and
            CutMix mix with it. That of row 0 is the last row of the batch.
    """

    share: HostShare
    batch_size: int
    previous: bool

    @property
    def count(self) -> int:
        """The number of rows that are read."""
        return self.share.size(self.batch_size) + self.previous

    @property
    def first(self) -> int:
        """The first row that the process trains on."""
        return self.share.index * self.share.size(self.batch_size)

    def wanted(self, position: Any) -> Any:
        """Return whether the process reads the image at a position of the stream.

        Args:
            position: int64 tensor.
        """
        return (position - self.first + self.previous) % self.batch_size < self.count

    def own(self, rows: Any) -> Any:
        """Return the rows that the process trains on, of those that it read and mixed.

        Args:
            rows: tensor with an axis of `count` rows, in the order of the stream.
        """
        if not self.previous:
            return rows
        # The row before row 0 comes last.
        return rows[1:] if self.first else rows[:-1]


@dataclasses.dataclass(frozen=True)
class Turns:
    """Images of an evaluation, which all processes read in turn: each of them once.

    Every process reads equally many, so the last of some processes is a repetition, with
    weight 0. Batches that the devices of a process cannot share evenly are padded, also
    with weight 0. The loss of an evaluation is an average over all rows, so the other
    weights are scaled up to compensate.

    Attributes:
        share: the `HostShare` of this process.
        number: int, number of images.
        batch_size: int, number of images in the whole batch.
        devices: int, number of devices that share a whole batch.
    """

    share: HostShare
    number: int
    batch_size: int
    devices: int

    @property
    def images(self) -> int:
        """The number of images that each process reads."""
        return -(-self.number // self.share.count)

    @property
    def size(self) -> int:
        """The number of images in a batch of a process."""
        return self.share.size(self.batch_size)

    @property
    def end(self) -> int:
        """The number of images that all processes read, including repetitions."""
        return self.images * self.share.count

    @property
    def multiple(self) -> int:
        """The number of devices that share a batch of a process."""
        return self.devices // self.share.count

    @property
    def padding(self) -> int:
        """The number of rows without an image in the batches of a process."""
        batches, rest = divmod(self.images, self.size)
        return batches * (-self.size % self.multiple) + -rest % self.multiple

    @property
    def weight(self) -> float:
        """The weight of every image."""
        return self.share.count * (self.images + self.padding) / self.number

    def wanted(self, position: Any) -> Any:
        """Return whether this process reads the image at a position.

        Args:
            position: int64 tensor; those from `number` on are repetitions.
        """
        mine = position % self.share.count == self.share.index
        return mine & (position < self.end)

    def is_first(self, row: Any) -> Any:
        """Return whether a row of this process is not a repetition.

        Args:
            row: int64 tensor, the number of the row among all rows of the process.
        """
        return row * self.share.count + self.share.index < self.number


def parts_of_all(value: Any) -> list[Any]:
    """Return the values of the processes that read different parts, in their order.

    Args:
        value: the value of this process, which can be pickled.
    """
    share = host_share()
    found = dict(processes.from_all((share.index, value)))
    return [found[index] for index in range(share.count)]


def in_turn(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return the rows of all processes in the order of the images; see `Turns`.

    Args:
        parts: arrays with a row for each image that a process read, without repetitions.

    Example:

    >>> import numpy as np
    >>> from keras_vit.data.host_share import in_turn
    >>> in_turn([np.array([0, 2, 4]), np.array([1, 3])]).tolist()
    [0, 1, 2, 3, 4]
    """
    first = parts[0]
    rows = np.empty((sum(map(len, parts)), *first.shape[1:]), first.dtype)
    for index, part in enumerate(parts):
        rows[index :: len(parts)] = part
    return rows
