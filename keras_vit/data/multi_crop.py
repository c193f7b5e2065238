"""Several random crops of every image, for self-distillation (DINO)."""

import dataclasses
import math

from keras_vit.data.augment import Augmentation
from keras_vit.data.decoding import decode_pixels
from keras_vit.data.host import tensorflow
from keras_vit.data.training_image import training_image

GLOBAL, LOCAL = "global_crops", "local_crops"
GLOBAL_CROPS = 2


@dataclasses.dataclass(frozen=True)
class MultiCrop:
    """Two large and several small random crops of every image.

    `training_batches(..., crops=MultiCrop(...))` returns them. Each crop is augmented on
    its own by the other settings of the `Augmentation`.

    Args:
        local_crops: int, number of small crops.
        local_size: `(height, width)` of the small crops in pixels.
        global_area: range of the part of the image's area in a large crop.
        local_area: range of the part of the image's area in a small crop.

    Raises:
        ValueError: a number or a range is not possible.

    Example:

    >>> import keras_vit
    >>> from keras_vit.data import Augmentation, MultiCrop, open_source, training_batches
    >>> crops = MultiCrop(local_crops=4, local_size=(4, 4))
    >>> batches = training_batches(open_source("digits"),
    ...     keras_vit.layers.Preprocessor(), Augmentation(), 32, seed=0, crops=crops)
    >>> images, _ = batches.element_spec
    >>> images["global_crops"].shape, images["local_crops"].shape
    (TensorShape([32, 2, 8, 8, 1]), TensorShape([32, 4, 4, 4, 1]))

    Reference: DINO (arXiv:2104.14294) section 3.1; SwAV (arXiv:2006.09882).
    """

    local_crops: int = 6
    local_size: tuple[int, int] = (96, 96)
    global_area: tuple[float, float] = (0.4, 1.0)
    local_area: tuple[float, float] = (0.05, 0.4)

    def __post_init__(self):
        if not isinstance(self.local_crops, int) or self.local_crops < 1:
            raise ValueError(
                f"local_crops must be a positive int; received {self.local_crops!r}."
            )
        size = self.local_size
        if len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
            raise ValueError(f"local_size must be two positive ints; received {size!r}.")
        for area in (self.global_area, self.local_area):
            Augmentation(crop_area=area)  # Raises for an impossible range.

    def shapes(self, shape: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the large and the small crops of one image.

        Args:
            shape: `(height, width, channels)` of the model's images.
        """
        return {
            GLOBAL: (GLOBAL_CROPS, *shape),
            LOCAL: (self.local_crops, *self.local_size, shape[-1]),
        }

    def split(self, pixels, shape):
        """Return the crops from the pixels of all crops in one row.

        Args:
            pixels: float32, `(b, n)`, a batch of what `crops_of_image` returns.
            shape: `(height, width, channels)` of the model's images.

        Returns:
            Dict with `global_crops` `(b, 2, h, w, c)` and `local_crops`.
        """
        tf, shapes = tensorflow(), self.shapes(shape)
        parts = tf.split(pixels, [math.prod(s) for s in shapes.values()], axis=-1)
        return {
            name: tf.reshape(part, (-1, *shapes[name]))
            for name, part in zip(shapes, parts, strict=True)
        }


def crops_of_image(source, preprocessor, augmentation, shape, crops: MultiCrop):
    """Return the number of pixels of all crops, and a function that makes them.

    The function takes an encoded image and a seed, and returns the pixels of all crops in
    one row, which `MultiCrop.split` takes apart again.
    """
    tf = tensorflow()
    if augmentation.mixes:
        raise ValueError(
            "Crops of an image cannot be mixed with those of another one: set mixup and "
            f"cutmix to 0; received mixup={augmentation.mixup}, "
            f"cutmix={augmentation.cutmix}."
        )

    def maker(area, size):
        own = dataclasses.replace(augmentation, crop_area=area)
        fitted = preprocessor.with_image_size(size)
        return training_image(source, fitted, own, (*size, shape[-1]))

    large = maker(crops.global_area, tuple(shape[:2]))
    small = maker(crops.local_area, tuple(crops.local_size))
    makers = [large] * GLOBAL_CROPS + [small] * crops.local_crops

    def image(content, seed):
        pixels = decode_pixels(content, source.channels, exif=source.exif)
        made = [
            tf.reshape(make(pixels, tf.random.fold_in(seed, number)), [-1])
            for number, make in enumerate(makers)
        ]
        return tf.concat(made, axis=0)

    return sum(math.prod(s) for s in crops.shapes(shape).values()), image
