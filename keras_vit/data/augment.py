"""Stateless augmentation inside `tf.data`, determined by a seed and the image."""

import dataclasses
import math

from keras_vit.data.color_operations import brightness, color, contrast
from keras_vit.data.host import compiled, tensorflow
from keras_vit.data.rand_augment import RandAugment
from keras_vit.layers.preprocessor import RESIZES


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Settings of the augmentations of training images, in the order of application.

    By default, images are not augmented.

    Args:
        crop_area: range of the part of the image's area that Inception's random crop
            covers, `(0.05, 1.0)` in the paper, `(0.08, 1.0)` in torchvision. The crop is
            resized to the model's size. None for the preprocessor's own resize and crop.
        crop_aspect: range of the width / height of the crop.
        pad_and_crop: width of a black border that is added to the resized image
            before a random crop of the original size: 4 on CIFAR. On small images such
            as digits it serves as a shift by whole pixels.
        simple_crop: width of a border that is added by reflection before a random crop
            of the model's size, 4 in DeiT III, or 0. Before that, the image is resized to
            the smallest size that covers the model's, with its own aspect ratio. It
            replaces the preprocessor's resize and crop, and excludes `crop_area` and
            `pad_and_crop`.
        horizontal_flip: whether to mirror images with a probability of one half.
        randaugment: None, or a string in the syntax of `RandAugment.parse`:
            `"randaug(2,10)"`, `"rand-m9-mstd0.5-inc1"`.
        three_augment: whether each image is made gray, solarized or blurred, one of the
            three with equal probabilities (3-Augment); see
            `keras_vit.data.three_augment.three_augmented`.
        color_jitter: strength of random changes in color, 0 to 1. Brightness, contrast
            and saturation, in this order, are scaled by random factors from
            `1 - color_jitter` to `1 + color_jitter`.
        random_erasing: probability that a rectangle is replaced by noise.
        mixup: alpha of mixup's Beta distribution, 0.2 in big_vision; 0 disables mixup.
        cutmix: alpha of CutMix's Beta distribution, 1.0 in timm; 0 disables CutMix.
        mix_probability: fraction of batches that are mixed.
        switch_probability: fraction of the mixed batches that use CutMix if both mixup
            and CutMix are enabled.

    Raises:
        ValueError: a value is out of its range.

    Example:

    >>> from keras_vit.data import Augmentation
    >>> small_16 = Augmentation(crop_area=(0.05, 1.0), horizontal_flip=True,
    ...     randaugment="randaug(2,10)", mixup=0.2)
    >>> small_16.mixes
    True

    Reference: big_vision's `pp/ops_image.py` and `utils.get_mixup`; timm's
    `RandomErasing` (mode "pixel") and `Mixup` (mode "batch"). Deviations: each image is
    mixed with the previous image of the batch, as in big_vision, instead of the image at
    the mirrored position, as in timm; color jitter has a fixed order and no hue.
    `simple_crop` and `three_augment`: DeiT III (arXiv:2204.07118) section 3, and its
    `augment.py`.
    """

    crop_area: tuple[float, float] | None = None
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    pad_and_crop: int = 0
    simple_crop: int = 0
    horizontal_flip: bool = False
    randaugment: str | None = None
    three_augment: bool = False
    color_jitter: float = 0.0
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0
    switch_probability: float = 0.5

    def __post_init__(self):
        if self.crop_area is not None:
            _check_range("crop_area", self.crop_area, 1.0)
        _check_range("crop_aspect", self.crop_aspect, math.inf)
        for name in (
            "color_jitter",
            "random_erasing",
            "mix_probability",
            "switch_probability",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be 0 to 1; is {getattr(self, name)!r}.")
        for name in ("mixup", "cutmix", "pad_and_crop", "simple_crop"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more; is {getattr(self, name)!r}.")
        if self.simple_crop and (self.crop_area is not None or self.pad_and_crop):
            raise ValueError(
                f"simple_crop={self.simple_crop} excludes the other random crops; "
                f"received crop_area={self.crop_area} and pad_and_crop="
                f"{self.pad_and_crop}. Set one of the three."
            )
        if self.randaugment is not None:
            RandAugment.parse(self.randaugment)

    @property
    def mixes(self) -> bool:
        """Return True if labels become mixtures of two classes, `(b, num_classes)`."""
        return bool((self.mixup or self.cutmix) and self.mix_probability)

    @property
    def changes_pixels(self) -> bool:
        """Return True if any step needs pixel values 0 to 255 at the model's size."""
        return bool(self.pad_and_crop or self.simple_crop or self.changes_colors)

    @property
    def changes_colors(self) -> bool:
        """Return True if any step needs uint8 images."""
        return bool(self.randaugment or self.three_augment or self.color_jitter)


def _check_range(name, values, limit):
    if (
        not isinstance(values, list | tuple)
        or len(values) != 2
        or not 0 < values[0] <= values[1] <= limit
    ):
        raise ValueError(
            f"{name} must be two numbers, the least and the greatest, above 0 and at "
            f"most {limit}; is {values!r}."
        )


def crop_window(shape, area, aspect, seed):
    """Sample a window for Inception's random crop.

    Args:
        shape: int32, `(3,)`: height, width, channels.
        area: two floats, the range of the part of the image's area.
        aspect: two floats, the range of width / height.
        seed: int32 or int64, `(2,)`.

    Returns:
        int32, `(4,)`: row, column, height, width. The whole image if 100 attempts find
        no window with such an area and aspect ratio.

    Reference: big_vision's `inception_crop`, which calls the same TensorFlow operation.
    """
    tf = tensorflow()
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        tf.zeros((1, 0, 4)),
        seed,
        min_object_covered=0.0,
        aspect_ratio_range=aspect,
        area_range=area,
        max_attempts=100,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], 0)


def shifted(image, margin, seed):
    """Shift an image randomly: add a black border and crop to the original size.

    Args:
        image: `(h, w, c)`, any dtype.
        margin: int, the width of the border, which is the largest shift.
        seed: int32 or int64, `(2,)`.

    Returns:
        The shifted image, with the shape and dtype of `image`.
    """
    tf = tensorflow()
    padded = tf.pad(image, [[margin, margin], [margin, margin], [0, 0]])
    return tf.image.stateless_random_crop(padded, image.shape, seed)


def simply_cropped(image, preprocessor, shape, margin, seed):
    """Resize an image to cover a size, add a reflected border, and crop randomly.

    Args:
        image: `(h, w, c)`, pixel values 0 to 255.
        preprocessor: a `Preprocessor`, whose resize method applies.
        shape: `(height, width, channels)` of the result.
        margin: int, the width of the border.
        seed: int32 or int64, `(2,)`.

    Returns:
        float32 `(height, width, channels)`, pixel values 0 to 255.

    Reference: DeiT III (arXiv:2204.07118) section 3, "simple random crop", and its code:
    torchvision's `Resize` and `RandomCrop` with `padding_mode="reflect"`.
    """
    tf = tensorflow()
    rows, columns = tf.unstack(tf.shape(image)[:2])
    height, width, _ = shape
    size = (
        tf.maximum(height, rows * width // columns),
        tf.maximum(width, columns * height // rows),
    )
    method, antialias = RESIZES[preprocessor.resize]
    image = tf.image.resize(image, size, method, antialias=antialias)
    if method == "bicubic":
        image = tf.clip_by_value(image, 0.0, 255.0)
    padded = tf.pad(image, [[margin, margin], [margin, margin], [0, 0]], "REFLECT")
    return tf.image.stateless_random_crop(padded, shape, seed)


def jittered(image, strength, seed):
    """Scale brightness, contrast and saturation by random factors.

    Args:
        image: uint8, `(h, w, 3)` or `(h, w, 1)`, which has no saturation.
        strength: float; the factors range from `1 - strength` to `1 + strength`.
        seed: int32 or int64, `(2,)`.

    Returns:
        uint8, the shape of `image`.
    """
    tf = tensorflow()
    factors = tf.random.stateless_uniform((3,), seed, 1 - strength, 1 + strength)
    return compiled(_with_scaled_colors)(image, factors)


def _with_scaled_colors(image, factors):
    tf = tensorflow()
    if image.shape[-1] == 1:
        return _with_scaled_colors(tf.repeat(image, 3, axis=-1), factors)[..., :1]
    image = brightness(image, factors[0])
    image = contrast(image, factors[1])
    return color(image, factors[2])


def erased(image, probability, seed):
    """Replace a random rectangle by standard normal noise, with a given probability.

    Args:
        image: float32, `(h, w, c)`, scaled by the preprocessor.
        probability: float, probability of erasing. The rectangle covers 2 % to 33 % of
            the area, with a height / width of 0.3 to 3.3.
        seed: int32 or int64, `(2,)`.

    Returns:
        float32, `(h, w, c)`.

    Reference: timm's `RandomErasing`, mode "pixel", with ten attempts to fit a rectangle.
    """
    tf = tensorflow()
    height, width, _ = image.shape
    attempts = tf.random.stateless_uniform((10, 4), tf.random.fold_in(seed, 1))
    area = (0.02 + (1 / 3 - 0.02) * attempts[:, 0]) * (height * width)
    aspect = tf.exp(math.log(0.3) * (1 - 2 * attempts[:, 1]))
    heights = tf.round(tf.sqrt(area * aspect))
    widths = tf.round(tf.sqrt(area / aspect))
    fits = (heights < height) & (widths < width)
    first = tf.argmax(fits)
    h, w = heights[first], widths[first]
    top = tf.floor(attempts[first, 2] * (height - h + 1))
    left = tf.floor(attempts[first, 3] * (width - w + 1))
    rows = tf.range(height, dtype="float32")[:, None, None]
    columns = tf.range(width, dtype="float32")[None, :, None]
    inside = (rows >= top) & (rows < top + h) & (columns >= left) & (columns < left + w)

    def erase():
        noise_seed = tf.random.fold_in(seed, 2)
        noise = tf.random.stateless_normal(image.shape, noise_seed)
        return tf.where(inside, noise, image)

    drawn = tf.random.stateless_uniform((), seed) < probability
    return tf.cond(drawn & fits[first], erase, lambda: tf.identity(image))


def mix_images(images, labels, augmentation: Augmentation, seed):
    """Apply mixup or CutMix to each image and the previous one of the batch.

    The same random draw applies to the whole batch.

    Args:
        images: float32, `(b, h, w, c)`.
        labels: float32, `(b, num_classes)`, one-hot.
        augmentation: an `Augmentation` with `mixup` or `cutmix`.
        seed: int32 or int64, `(2,)`.

    Returns:
        Tuple of mixed images and mixed labels, with the same shapes. CutMix weights the
        labels by the area that remains of each image.

    Example:

    >>> import tensorflow as tf
    >>> from keras_vit.data import Augmentation, mix_images
    >>> images, labels = tf.zeros((2, 8, 8, 3)), tf.eye(2)
    >>> _, labels = mix_images(images, labels, Augmentation(mixup=0.2), (0, 0))
    >>> labels.numpy().sum(1).tolist()
    [1.0, 1.0]

    Reference: mixup (arXiv:1710.09412), CutMix (arXiv:1905.04899); timm's `Mixup` for
    their combination.
    """
    tf = tensorflow()
    images, labels = tf.convert_to_tensor(images), tf.convert_to_tensor(labels)
    drawn = tf.random.stateless_uniform((4,), tf.random.fold_in(seed, 0))

    def mixup():
        ratio = _beta(augmentation.mixup, tf.random.fold_in(seed, 1))
        return compiled(_mixup)(images, labels, ratio)

    def cutmix():
        ratio = _beta(augmentation.cutmix, tf.random.fold_in(seed, 2))
        return compiled(_cutmix)(images, labels, ratio, drawn[2:])

    def mix():
        if not augmentation.cutmix:
            return mixup()
        if not augmentation.mixup:
            return cutmix()
        return tf.cond(drawn[1] < augmentation.switch_probability, cutmix, mixup)

    return tf.cond(drawn[0] < augmentation.mix_probability, mix, lambda: (images, labels))


def _mixup(images, labels, ratio):
    """Mix images and labels with the previous ones of the batch."""
    return _mixture(images, ratio), _mixture(labels, ratio)


def _cutmix(images, labels, ratio, center):
    """Paste a rectangle, at `center` (0 to 1), of the previous image of the batch."""
    tf = tensorflow()
    height, width = images.shape[1:3]

    def inside(length, position):
        cut = tf.cast(tf.sqrt(1.0 - ratio) * length, "int32")
        start = tf.cast(position * length, "int32") - cut // 2
        index = tf.range(length)
        return (index >= start) & (index < start + cut)

    box = inside(height, center[0])[:, None] & inside(width, center[1])[None, :]
    area = tf.reduce_sum(tf.cast(box, "float32")) / (height * width)
    images = tf.where(box[:, :, None], tf.roll(images, 1, 0), images)
    return images, _mixture(labels, 1.0 - area)


def _mixture(things, ratio):
    return ratio * things + (1.0 - ratio) * tensorflow().roll(things, 1, 0)


def _beta(alpha, seed):
    """Sample from Beta(alpha, alpha); the result is a float32 scalar."""
    tf = tensorflow()
    # In float32 both gamma samples can underflow to zero for a small alpha such as 0.1.
    gammas = tf.random.stateless_gamma((2,), seed, alpha, dtype=tf.float64)
    return tf.cast(gammas[0] / tf.reduce_sum(gammas), "float32")
