"""Handwritten digits from UCI, included in scikit-learn: 1,797 gray images of 8x8."""

import keras
import numpy as np

from keras_vit.data import sources
from keras_vit.data.augment import shifted
from keras_vit.data.host import tensorflow

CLASSES = 10


def load(size: int, seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Load the digits as images of `size` x `size` with pixel values 0 to 255.

    Args:
        size: int, side of the images. Other sizes than 8 are interpolated bilinearly.
        seed: int, seed of the split.

    Returns:
        Dict with `train`, `validation` and `test`: pairs of images `(n, size, size, 1)`,
        float32, and labels `(n,)`, int32. The split into 1,257, 180 and 360 images is
        stratified and does not depend on `size`.
    """
    parts = {}
    for part, (images, labels, _) in sources.digits(seed).items():
        if size != 8:
            images = keras.ops.image.resize(
                images,
                (size, size),
                interpolation="bilinear",
                data_format="channels_last",
            )
            images = keras.ops.convert_to_numpy(images)
        parts[part] = images, labels
    return parts


def dataset(images, labels, preprocessor, batch_size, seed=None):
    """Return a `tf.data.Dataset` of preprocessed batches.

    With a `seed`, the data set is for training: images are shuffled and shifted at random
    by up to one eighth of their side, and an incomplete last batch is dropped. Shifts are
    whole pixels, because interpolation would blur 8x8 images beyond recognition.

    Args:
        images: `(n, h, w, 1)`, pixel values 0 to 255.
        labels: `(n,)`, ints.
        preprocessor: preprocessor of the model.
        batch_size: int, number of images in a batch.
        seed: int, seed of the training data, or None for evaluation.
    """
    tf = tensorflow()
    data = tf.data.Dataset.from_tensor_slices((images, labels))
    if seed is None:
        data = data.batch(batch_size)
    else:
        margin = images.shape[1] // 8

        def shift(example, shift_seed):
            image, label = example
            return shifted(image, margin, shift_seed), label

        seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
        data = data.shuffle(len(images), seed=seed)
        data = tf.data.Dataset.zip(data, seeds.batch(2))
        data = data.map(shift, tf.data.AUTOTUNE)
        data = data.batch(batch_size, drop_remainder=True)
    data = data.map(lambda x, y: (preprocessor(x), y), tf.data.AUTOTUNE)
    return data.prefetch(tf.data.AUTOTUNE)
