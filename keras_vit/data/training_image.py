"""Decoding and augmentation of one training image."""

import numpy as np

from keras_vit.data import augment
from keras_vit.data.decoding import decode_pixels
from keras_vit.data.host import tensorflow
from keras_vit.data.rand_augment import RandAugment
from keras_vit.data.three_augment import three_augmented
from keras_vit.layers import Preprocessor
from keras_vit.layers.preprocessor import RESIZES

# Random draws of an image, each with its own seed.
_DRAWS = 7
_CROP, _SHIFT, _FLIP, _RAND_AUGMENT, _JITTER, _ERASE, _THREE = range(_DRAWS)


def training_image(source, preprocessor, augmentation, shape):
    """Return a function from an encoded image and a seed to an augmented image."""
    tf = tensorflow()
    rand_augment = augmentation.randaugment and RandAugment.parse(
        augmentation.randaugment
    )
    if augmentation.changes_colors and shape[-1] != 3:
        only_jitter = not (rand_augment or augmentation.three_augment)
        if not (only_jitter and shape[-1] == 1):
            raise ValueError(
                "RandAugment and three_augment need images with 3 channels, color_jitter "
                f"with 3 or 1; {source.name!r} has {shape[-1]}."
            )
    margin = augmentation.simple_crop
    if margin >= min(shape[:2]):
        raise ValueError(
            f"augmentation.simple_crop={margin} must be smaller than the sides of the "
            f"images, {shape[0]}x{shape[1]}: the border repeats a part of the image."
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
        elif margin:
            image = decode_pixels(content, source.channels, exif=source.exif)
            image = augment.simply_cropped(
                image, preprocessor, shape, margin, seeds[_CROP]
            )
        else:
            image = fit(decode_pixels(content, source.channels, exif=source.exif))
        image = tf.ensure_shape(image, shape)
        if augmentation.pad_and_crop:
            image = augment.shifted(image, augmentation.pad_and_crop, seeds[_SHIFT])
        if augmentation.horizontal_flip:
            image = tf.image.stateless_random_flip_left_right(image, seeds[_FLIP])
        if augmentation.changes_colors:
            image = tf.cast(tf.round(tf.clip_by_value(image, 0.0, 255.0)), "uint8")
        if rand_augment:
            image = rand_augment(image, seeds[_RAND_AUGMENT], fill)
        if augmentation.three_augment:
            image = three_augmented(image, seeds[_THREE])
        if augmentation.color_jitter:
            image = augment.jittered(image, augmentation.color_jitter, seeds[_JITTER])
        if pixels_only:
            image = scale(image)
        if augmentation.random_erasing:
            image = augment.erased(image, augmentation.random_erasing, seeds[_ERASE])
        return image

    return prepare
